"""`jdnas import`, and the other commands on files of other projects."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from tests.models.checkpoints import layouts
from tests.models.peers import peer

NANO = Path(__file__).parents[1] / "pipeline" / "nano.yaml"
SMALL = {"depths": (1, 1, 1, 1), "width": 8, "neck": 16, "fc": 32, "classes": 2}


@pytest.fixture
def mmdetection(jdnas) -> Path:
    path = Path("epoch_12.pth")
    meta = {"dataset_meta": {"classes": ("thing1", "thing2")}}
    torch.save({"meta": meta, "state_dict": layouts.trained(layouts.mmdetection(**SMALL)), "optimizer": {"state": {}}}, path)
    return path


def test_import_writes_our_format_and_says_what_it_did(jdnas, mmdetection: Path) -> None:
    answer = jdnas("import", mmdetection, "--out", "base")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[0].startswith("epoch_12.pth: mmdetection Faster R-CNN, resnet_bottleneck 1-1-1-1, neck 16, 2 classes; ")
    assert "  assumed: RGB with ImageNet mean and deviation" in answer.out
    meta = json.loads(Path("base.json").read_text())["meta"]
    assert meta["classes"] == ["thing1", "thing2"] and meta["size_hw"] == [800, 1344] and not meta["fresh"]
    assert "r50.v2.safetensors written" in jdnas("import", mmdetection, "--out", "r50.v2").out
    assert Path("r50.v2.json").exists() and not Path("r50.json").exists()
    assert "is a detector of jdnas already" in jdnas("import", "base.safetensors", "--out", "other").error
    assert "written by jdnas" not in jdnas("complexity", "base.json").out


def test_commands_take_the_file_itself(jdnas, mmdetection: Path, coco) -> None:
    root = coco()
    answer = jdnas("eval", mmdetection, "--data", root, "--size", "96x64", "--out", "metrics.json")
    assert answer.code == 0, answer.err
    assert json.loads(Path("metrics.json").read_text())["images"] == 2
    assert answer.err.startswith("epoch_12.pth: mmdetection Faster R-CNN") and "assumed: RGB" in answer.err
    assert jdnas("import", mmdetection, "--out", "base").code == 0
    assert jdnas("eval", "base.safetensors", "--data", root, "--size", "96x64").out == answer.out
    answer = jdnas("predict", mmdetection, root / "images", "--size", "96x64", "--out", "found")
    assert answer.code == 0 and Path("found/detections.json").exists()
    assert jdnas("export", mmdetection, "--out", "engine.onnx", "--size", "96x64").code == 0
    assert jdnas("eval", "engine.onnx", "--data", root).code == 0


def test_torchvision_there_and_back(jdnas) -> None:
    torch.save(peer("r18", 3).state_dict(), "theirs.pth")
    answer = jdnas("export", "theirs.pth", "--out", "ours.pth")
    assert "resnet_fpn_backbone(backbone_name='resnet18'" in answer.out and "num_classes=4" in answer.out
    theirs, ours = (torch.load(name, weights_only=True) for name in ("theirs.pth", "ours.pth"))
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in theirs)
    torch.save(layouts.trained(layouts.mmdetection(**SMALL)), "mm.pth")
    assert "torchvision's Faster R-CNN has no round_anchors=False" in jdnas("export", "mm.pth", "--out", "wrong.pth").error
    assert not Path("wrong.pth").exists()


def test_training_starts_from_it_with_other_classes(jdnas) -> None:
    """The spec is the file's, whatever --base says; of the predictor only the classes differ, which one line says."""
    torch.save({"state_dict": layouts.trained(layouts.mmdetection(**{**SMALL, "classes": 5}))}, "mm.pth")
    answer = jdnas("train", "--base", "r50", "--weights", "mm.pth", "--preset", NANO, "--run-dir", "run", "--set", "base_train.epochs=1")
    assert answer.code == 0, answer.err
    out = " ".join(answer.out.split())
    assert "mm.pth: mmdetection Faster R-CNN" in out
    assert "class scores and box deltas begin anew for" in out and "(the file has 5)" in out
    spec = json.loads(Path("run/base/base.json").read_text())["spec"]
    assert [s["width"] for s in spec["stages"]] == [32, 64, 128, 256] and spec["head"]["roi_aligned"] is True and spec["neck"] == 16


def test_a_backbone_alone_detects_nothing(jdnas) -> None:
    torch.save({n: t for n, t in layouts.trained(layouts.resnet("", (1, 1, 1, 1), 8)).items()}, "backbone.pth")
    answer = jdnas("import", "backbone.pth", "--out", "base")
    assert (
        "the backbone alone; " in answer.out
        and "new, to be trained: fpn (16 entries), rpn (6 entries)" in answer.out
        and "it has no detection heads yet: train it" in answer.out
    )
    for name in ("backbone.pth", "base.safetensors"):
        assert "holds a backbone without detection heads; train it first" in jdnas("export", name, "--out", "a.onnx").error
        assert not Path("a.onnx").exists()


def test_a_backbone_is_trained_into_a_detector(jdnas) -> None:
    """Neck and heads have the widths and anchors of the settings, the backbone those of the file."""
    torch.save(layouts.trained(layouts.resnet("", (1, 1, 1, 1), 8)), "backbone.pth")
    jdnas("import", "backbone.pth", "--out", "kept")
    specs = []
    for name, folder in (("backbone.pth", "a"), ("kept.safetensors", "b")):
        answer = jdnas("train", "--weights", name, "--preset", NANO, "--run-dir", folder, "--set", "base_train.epochs=1")
        assert answer.code == 0, answer.err
        assert "begin anew" not in answer.out
        specs.append(json.loads(Path(folder, "base/base.json").read_text())["spec"])
    assert specs[0] == specs[1]
    settings = yaml.safe_load(NANO.read_text())["model"]
    assert [s["width"] for s in specs[0]["stages"]] == [32, 64, 128, 256]
    assert (specs[0]["neck"], specs[0]["head"]["width"]) == (settings["neck"], settings["head_width"])


@pytest.mark.parametrize("command", ["import", "export", "train", "optimize"])
def test_wrong_files_leave_nothing(jdnas, command: str) -> None:
    torch.save({"blocks.0.attn.qkv.weight": torch.zeros(3)}, "vit.pth")
    before = sorted(Path().rglob("*"))
    options = {"import": ["--out", "base"], "export": ["--out", "a.onnx"]}.get(command, ["--preset", NANO, "--run-dir", "run"])
    file = ["--weights", "vit.pth"] if command in ("train", "optimize") else ["vit.pth"]
    assert "a vision transformer" in jdnas(command, *file, *options).error
    assert sorted(Path().rglob("*")) == before


def test_settings_files(jdnas, mmdetection: Path) -> None:
    def error(text: str, name: str) -> str:
        Path(name).write_text(text)
        return jdnas("import", mmdetection, "--out", "base", "--config", name).error

    assert "builds on 'x.py'" in error("_base_ = 'x.py'\nmodel = dict()", "config.py")
    assert "holds no settings of a model" in error("a = 1", "config.py")
    assert "not valid YAML" in error("a: [", "config.yaml")
    assert "cannot be read" in jdnas("import", mmdetection, "--out", "base", "--config", "none.py").error
    torch.save(peer("r18", 3).state_dict(), "theirs.pth")
    assert "is of no use for a torchvision" in jdnas("import", "theirs.pth", "--out", "base", "--config", "config.py").error
