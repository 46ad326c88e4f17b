"""Data sets that are not perfect and work, with every loss counted."""

import json
from pathlib import Path

import pytest

NANO = Path(__file__).parents[1] / "pipeline" / "nano.yaml"
FLAWS = [(4, 4, 20, 20), (0, 0, 0, 9), (500, 500, 10, 10), (50, 10, 30, 20)]


@pytest.fixture
def trained(jdnas):
    """Train the base on a data set for a step and return what was printed and what was kept."""

    def call(root: Path) -> tuple[str, dict]:
        answer = jdnas("train", "--preset", NANO, "--data", root, "--run-dir", "run", "--set", "base_train.epochs=0.5")
        assert answer.code == 0, answer.err
        return answer.out, json.loads(Path("run/base/base.json").read_text())

    return call


def test_category_ids_with_gaps_are_mapped(trained, coco) -> None:
    out, saved = trained(coco(ids=(3, 90)))
    assert "2 classes" in out
    assert saved["spec"]["num_classes"] == 2 and set(saved["meta"]["metrics"]["per_class"]) == {"thing3", "thing90"}


def test_bad_images_and_boxes_are_named_and_counted(trained, coco) -> None:
    root = coco(boxes=tuple(FLAWS))
    (root / "images" / "train1.png").write_bytes(b"no image")
    out, saved = trained(root)
    said = " ".join(out.split())
    assert "1 training and 2 validation images" in said
    assert "train: 1 clipped boxes; 1 outside boxes; 1 unreadable images; 1 zero size boxes; skipped files: train1.png" in said
    assert "val: 2 clipped boxes; 2 outside boxes; 2 zero size boxes" in said
    assert saved["meta"]["images"] == 4
