"""Packages of AOTInductor as `jdnas export` makes them, without the minutes that compiling takes."""

from pathlib import Path

import pytest
import torch

from export.parity import ParityResult, compare
from jdnas.data.shapes import make_shapes
from jdnas.errors import CheckpointError, DataError
from jdnas.models.detector import build
from jdnas.pipeline import engines
from jdnas.pipeline.engines import export_engine
from jdnas.pipeline.export_job import Proof
from jdnas.pipeline.exports import ExportOptions
from jdnas.spec import DetectorSpec, Head, Stage
from jdnas.training.checkpoint import save_detector


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.manual_seed(0)
    head = Head(width=16, rpn_width=8, anchor_sizes=(8, 16, 32, 64, 128), candidates=50, proposals=50, detections=20)
    spec = DetectorSpec("resnet_basic", 8, tuple(Stage(8, (8,)) for _ in range(4)), 3, neck=8, head=head)
    save_detector(tmp_path / "small", spec, build(spec).state_dict(), {"size_hw": [64, 64], "classes": ["a", "b", "c"]})
    monkeypatch.setattr(engines, "export_package", lambda *_, path, **__: path.write_bytes(b"a package"))
    return tmp_path / "small.safetensors"


def test_it_is_compared_on_the_images_and_by_the_limits_that_were_given(weights: Path, tmp_path: Path, monkeypatch) -> None:
    make_shapes(tmp_path / "shapes", train=2, val=3, size=64, seed=0)
    asked: list[Proof] = []

    def compared(proof: Proof, artifact: Path, precision: str) -> ParityResult:
        asked.append(proof)
        detector = proof._detector
        with torch.no_grad():
            return compare(detector, detector, proof._batches(), tolerances=proof.limits[precision], reference_ap=0.5, runner_ap=0.5)

    monkeypatch.setattr(Proof, "compare", compared)
    options = ExportOptions(runtime="aoti", data=tmp_path / "shapes", max_delta_ap=0.25)
    (said,) = export_engine(weights, tmp_path / "small.pt2", options)
    (proof,) = asked
    assert proof.val is not None and len(proof.val.records) == 3 and proof.runtime == "aoti" and proof.limits["fp32"].ap == 0.25
    assert "on 3 images agree" in said and (tmp_path / "small.pt2").read_bytes() == b"a package"


def test_a_set_of_other_classes(weights: Path, tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes", train=2, val=2, size=64, seed=0)
    spec_of_two = DetectorSpec("resnet_basic", 8, tuple(Stage(8, (8,)) for _ in range(4)), 2, neck=8)
    save_detector(tmp_path / "two", spec_of_two, build(spec_of_two).state_dict(), {"size_hw": [64, 64], "classes": ["a", "b"]})
    with pytest.raises(DataError, match="knows 2 classes, .*shapes has 3: "):
        export_engine(tmp_path / "two.safetensors", tmp_path / "two.pt2", ExportOptions(runtime="aoti", data=tmp_path / "shapes"))


def test_a_package_that_does_not_open_leaves_nothing(weights: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="cannot load"):
        export_engine(weights, tmp_path / "small.pt2", ExportOptions(runtime="aoti"))
    assert sorted(tmp_path.iterdir()) == before
