"""Files that are damaged, dangerous or something else: one line that says so, and no code of theirs runs."""

import argparse
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from jdnas.errors import CheckpointError
from jdnas.models.checkpoints import import_checkpoint
from jdnas.models.checkpoints.python_config import read_python_config
from jdnas.models.checkpoints.reading import read_archive
from tests.models.checkpoints import layouts

TINY = {"depths": (1, 1, 1, 1), "width": 4, "neck": 8, "fc": 12, "classes": 2}


def state() -> dict[str, torch.Tensor]:
    return layouts.trained(layouts.mmdetection(**TINY))


def message(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(path)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text


class Attack:
    """Unpickled the ordinary way, this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


class OtherAttack(Attack):
    """The same through a class method of a harmless class."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("attack", [Attack, OtherAttack])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path, attack: type[Attack], zipped: bool) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pth"
    torch.save({"state_dict": state(), "meta": attack(marker)}, path, _use_new_zipfile_serialization=zipped)
    assert "which can run code" in message(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the file does what it claims to
    assert marker.exists()


def test_a_plain_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {"conv1.weight": np.zeros(3)}, "x": Attack(marker)}))
    assert "plain pickle, which can run code" in message(path)
    assert not marker.exists()


def test_a_trusted_file_of_detectron2s_model_zoo_is_converted_as_the_docs_say(tmp_path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in layouts.trained(layouts.detectron2(**TINY)).items()}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    arrays = pickle.loads((tmp_path / "zoo.pkl").read_bytes(), encoding="latin1")["model"]
    torch.save({name: torch.as_tensor(array) for name, array in arrays.items()}, tmp_path / "zoo.pth")
    assert import_checkpoint(tmp_path / "zoo.pth").report.origin == "detectron2 Faster R-CNN"


def test_logs_beside_the_weights_are_read_past(tmp_path: Path) -> None:
    """Arguments, arrays and scalars of a training log come out as nothing, and the weights are read."""
    log = {"args": argparse.Namespace(lr=0.1), "losses": np.arange(3.0), "best": np.float64(0.4), "state_dict": state()}
    torch.save(log, tmp_path / "model.pth")
    archive = read_archive(tmp_path / "model.pth")
    assert archive.tensors.keys() == state().keys()
    assert not archive.meta["args"] and not archive.meta["losses"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_files(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save(state(), path) if suffix == ".pth" else save_file(state(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated" in message(path)


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_random_damage_never_ends_in_anything_but_one_line(tmp_path: Path, kind: str) -> None:
    path, draw = tmp_path / "model.pth", random.Random(0)
    if kind == "safetensors":
        save_file(state(), path)
    else:
        torch.save({"state_dict": state(), "meta": {"CLASSES": ("a", "b")}}, path, _use_new_zipfile_serialization=kind == "zip")
    content, refused = path.read_bytes(), 0
    for _ in range(40):
        damaged = bytearray(content)
        start = draw.choice((draw.randrange(len(content)), draw.randrange(4000), len(content) - draw.randrange(1, 4000)))
        damaged[start : start + draw.randint(1, 30)] = draw.randbytes(draw.randint(0, 30))
        path.write_bytes(damaged)
        try:
            import_checkpoint(path)
        except CheckpointError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 10  # the others hit a weight


def test_damaged_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(state(), path)
    content = bytearray(path.read_bytes())
    for place in range(200, 900):
        content[place] ^= 0x5A
    path.write_bytes(bytes(content))
    assert "damaged" in message(path)
    torch.save({**state(), "backbone.bn1.weight": torch.full((4,), float("nan"))}, path)
    assert "not finite in 1 tensors (first: backbone.bn1.weight)" in message(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no checkpoint (it is empty)"),
        (b"<!DOCTYPE html><html>", "begins with '<!DOCTYPE html><html>'"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "no checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (struct.pack("<Q", 1 << 40) + b"{}", "truncated or no safetensors"),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert words in message(path)


def test_other_things_that_torch_saves(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save([1, 2, 3], path)
    assert "holds a list, not a state dict" in message(path)
    torch.save({"epoch": 3}, path)
    assert "holds no tensors; its entries: epoch" in message(path)
    torch.save(torch.zeros(3), path)
    assert "holds a Tensor" in message(path)
    for inside, words in (("model/constants.pkl", "TorchScript"), ("a.txt", "a zip file but no checkpoint")):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(inside, "a")
        assert words in message(path)
    torch.save(torch.nn.Linear(2, 2), path)
    assert "torch.nn.modules.linear.Linear" in message(path)
    assert "is a folder" in message(tmp_path)
    assert "no such weight file" in message(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"), "a vision transformer"),
        (("backbone.conv1.weight", "decode_head.conv_seg.weight"), "a segmentation network"),
        (("backbone.body.conv1.weight", "head.classification_head.conv.0.weight"), "a RetinaNet"),
        (("backbone.conv1.weight", "bbox_head.retina_cls.weight"), "a RetinaNet"),
        (("model.0.conv.weight", "model.1.conv.weight"), "a YOLO"),
        (("proposal_generator.rpn_head.conv.weight", "roi_heads.res5.0.conv1.weight"), "without FPN"),
        (("conv1.0.weight", "layer1.0.conv1.weight"), "deep stem"),
        (("backbone.stem.conv.weight", "fpn.lateral.0.weight"), "jdnas, whose .json is not beside it"),
        (("a", "b"), "nothing here knows (2 entries, first: a, b)"),
    ],
)
def test_checkpoints_of_other_models(tmp_path: Path, names: tuple[str, ...], kind: str) -> None:
    path = tmp_path / "model.pth"
    torch.save({name: torch.zeros(1) for name in names}, path)
    text = message(path)
    assert kind in text and "what can be read: torchvision" in text


def test_entries_that_do_not_fit_together_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    wrong = state()
    wrong["neck.fpn_convs.1.conv.weight"] = torch.zeros(9, 8, 3, 3)
    del wrong["backbone.layer2.0.bn3.bias"], wrong["roi_head.bbox_head.shared_fcs.1.bias"]
    torch.save(wrong, path)
    text = message(path)
    assert "2 missing (backbone.stages.1.0.conv3.norm.bias; box_head.fc7.bias)" in text
    assert "1 of another shape (fpn.output.1.weight is (9, 8, 3, 3), needs (8, 8, 3, 3))" in text


def test_a_stage_without_its_first_block(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({name.replace("layer3.0.", "layer3.1."): tensor for name, tensor in state().items()}, path)
    assert "stage 3 lacks blocks: it has [1]" in message(path)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    half = OrderedDict((name, tensor.half() if tensor.is_floating_point() else tensor) for name, tensor in state().items())
    torch.save({"state_dict": {"model_state_dict": half}}, tmp_path / "model.pth")
    assert {t.dtype for t in import_checkpoint(tmp_path / "model.pth").state.values()} == {torch.float32, torch.int64}


def test_settings_are_read_as_data() -> None:
    text = "a = dict(b=[1, (2, -3.5)], c={'d': None})\ne = a['b']\nf = open('x', 'w')\ng = dict(**a)\nh = 'i'\nj = [k for k in a]"
    assert read_python_config(text) == {"a": {"b": [1, (2, -3.5)], "c": {"d": None}}, "h": "i"}
    assert read_python_config("a = (") == {} and read_python_config("(" * 10_000) == {}
