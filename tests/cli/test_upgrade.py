"""`jdnas upgrade`: what it writes, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jdnas.training.checkpoint import load_detector, save_detector
from tests.models.specs import plain_spec, random_state


@pytest.fixture
def weights(jdnas) -> Path:
    spec = plain_spec("resnet_bottleneck")
    save_detector(Path("w"), spec, random_state(spec), {"classes": ["a", "b"], "size_hw": [64, 96]})
    return Path("w.safetensors")


def test_a_detector_is_upgraded_and_keeps_what_is_known_of_it(jdnas, weights: Path) -> None:
    answer = jdnas(
        "upgrade", "--weights", weights, "--deform", "c3,c4,c5", "--modulated", "--head", "cascade", "--out", "new/up.safetensors"
    )
    assert answer.code == 0, answer.err
    assert "Deformable stages: none → 2, 3, 4 (modulated)." in answer.out and "Head kind: rcnn → cascade." in answer.out
    spec, _, meta = load_detector(Path("new/up"))
    assert spec.deformable == (1, 2, 3) and spec.modulated and spec.head.kind == "cascade"
    assert meta == {"origin": "upgraded from w.safetensors", "classes": ["a", "b"], "size_hw": [64, 96]}
    assert "jdnas train --weights new/up.safetensors" in answer.out


def test_a_name_with_a_dot_leaves_the_input_as_it_was(jdnas, weights: Path) -> None:
    before = {path: path.read_bytes() for path in Path().iterdir()}
    for out in ("w.upgraded.safetensors", "w_0.3.safetensors"):
        assert jdnas("upgrade", "--weights", weights, "--head", "cascade", "--out", out).code == 0
        assert load_detector(Path(out).with_suffix(""))[0].head.kind == "cascade"
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(Path().iterdir())) == 6


def test_refusals(jdnas, weights: Path) -> None:
    def error(*arguments: object) -> str:
        line = jdnas("upgrade", "--weights", weights, *arguments).error
        assert not Path("upgraded.json").exists()
        return line

    assert "nothing to upgrade" in error()
    assert "--deform takes stages by the maps that they end in, c2, c3, c4, c5, such as c3,c4,c5; got '3,4'" in error("--deform", "3,4")
    assert "unknown head 'mask'; known: cascade" in error("--head", "mask")
    assert "--modulated is for deformable stages" in error("--modulated", "--head", "cascade")
    assert "would overwrite" in error("--head", "cascade", "--out", weights)
    assert "must end in .safetensors" in error("--head", "cascade", "--out", "x.onnx")
    basic = replace(plain_spec("resnet_basic"))
    save_detector(Path("basic"), basic, random_state(basic), {})
    assert "deformable stages need a bottleneck family" in jdnas("upgrade", "--weights", "basic.safetensors", "--deform", "c5").error
    assert json.loads(Path("w.json").read_text())["spec"]["family"] == "resnet_bottleneck"


def test_one_folder_and_one_file_become_a_data_set(jdnas, coco) -> None:
    root = coco(images=6)
    answer = jdnas("data", "split", root / "images", root / "annotations" / "train.json", "--out", "mine", "--val", 0.34)
    assert answer.code == 0, answer.err
    assert answer.out == "mine: 4 training and 2 validation images; look at it with: jdnas data check mine\n"
    assert "exists and is not empty" in jdnas("data", "split", root / "images", root / "annotations" / "train.json", "--out", "mine").error
