"""What is published: the precision asked for or the fastest that passes, never what failed; and the lists of `jdnas export`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.artifact import ArtifactInfo
from export.runners import open_runner
from export.settings import TOLERANCES, Int8Settings, Tolerances
from jdnas.data.coco import load_split
from jdnas.data.records import DetectionSet
from jdnas.data.shapes import make_shapes
from jdnas.errors import ConfigError, ParityError, TargetError
from jdnas.models.detector import build
from jdnas.pipeline import export_job, precisions
from jdnas.pipeline.export_job import Calibration, Made, Proof, Subject, make, parity_batches
from jdnas.pipeline.exports import ExportOptions
from jdnas.pipeline.precisions import publish
from jdnas.spec import DetectorSpec, Head, Stage
from latency.targets import load_target
from latency.timing import Timing

SIZE_HW = (64, 64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DetectionSet]:
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, train=6, val=4, size=64, seed=0)
    return {split: load_split(root, split) for split in ("train", "val")}


@pytest.fixture(scope="module")
def subject(data: dict[str, DetectionSet]) -> Subject:
    torch.manual_seed(0)
    head = Head(width=16, rpn_width=8, anchor_sizes=(8, 16, 32, 64, 128), candidates=30, proposals=30, detections=20)
    spec = DetectorSpec("resnet_basic", 8, tuple(Stage(width, (width,)) for width in (8, 8, 16, 16)), 3, neck=8, head=head)
    detector = build(spec).eval()
    with torch.no_grad():
        detector.box_head.class_logits.weight.normal_(std=1.0)
        detector.rpn.objectness.weight.normal_(std=0.5)
    return Subject(spec, detector.state_dict(), data["train"].classes, SIZE_HW, provenance={"from": "the test"})


@pytest.fixture(scope="module")
def made(subject: Subject, data: dict[str, DetectionSet], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Every precision once; tests copy the files."""
    folder, proof = tmp_path_factory.mktemp("made"), _proof(subject, data)
    calibration = Calibration(data["train"], Int8Settings("minmax"), images=4, ranking=1)
    return {name: make(subject, name, folder / f"{name}.onnx", proof, calibration) for name in ("fp32", "fp16", "int8")}


def _proof(subject: Subject, data: dict[str, DetectionSet], **changes: Tolerances) -> Proof:
    # Random weights detect next to nothing: of AP there is nothing to compare, so that is set wide.
    limits = {name: replace(one, ap=1.0, moved=1.0) for name, one in TOLERANCES.items()} | changes
    return Proof(subject, limits, data["val"], images=4)


@pytest.fixture
def from_shelf(made: dict[str, Made], monkeypatch: pytest.MonkeyPatch) -> None:
    """`publish` gets copies of what was made once, judged by the limits of its proof."""

    def copy(subject, precision, path, proof, calibration, say=None) -> Made:
        path.write_bytes(made[precision].path.read_bytes())
        return replace(made[precision], path=path, result=proof.compare(path, precision))

    monkeypatch.setattr(precisions, "make", copy)


def test_verdict_and_provenance_are_in_the_file(subject: Subject, made: dict[str, Made]) -> None:
    for name, one in made.items():
        with open_runner(one.path, threads=1) as runner:
            info = runner.metadata
        assert (info.precision, info.size_hw, info.classes) == (name, SIZE_HW, subject.classes)
        assert info.parity is not None and info.parity["passed"] and info.parity["images"] == 4
        assert info.parity["ap"] is not None and info.provenance["from"] == "the test"
    int8 = ArtifactInfo.from_properties({p.key: p.value for p in onnx.load(made["int8"].path).metadata_props}, "x").provenance["int8"]
    assert (int8["images"], int8["method"], int8["style"], int8["in_float"]) == (4, "minmax", "cpu", [])


def test_calibration_images_are_spread_over_the_set(data: dict[str, DetectionSet], subject: Subject) -> None:
    two = replace(subject, batch=2)
    feeds = list(Calibration(data["train"]).feeds(two, 3))
    assert [one["images"].shape for one in feeds] == [(2, 3, *SIZE_HW)] * 2
    np.testing.assert_array_equal(feeds[1]["images"][0], feeds[1]["images"][1])  # filled up by repetition
    chosen = export_job._spread(data["train"], 3).records
    assert [record.image_id for record in chosen] == [data["train"].records[at].image_id for at in (0, 2, 5)]


def test_compared_images_are_spread_over_the_set(data: dict[str, DetectionSet], subject: Subject) -> None:
    every, two = (list(parity_batches(subject, data["val"], count)) for count in (4, 2))
    assert [torch.equal(one.images, other.images) for one, other in zip(two, (every[0], every[3]), strict=True)] == [True, True]


def test_one_precision(subject: Subject, data, from_shelf, tmp_path: Path) -> None:
    found = publish(subject, "fp16", tmp_path / "a.onnx", _proof(subject, data), None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    assert found.made.precision == "fp16" and found.rows[0]["chosen"] and "detections on 4 images agree" in found.verdict


def test_what_fails_is_kept_apart_and_marked(subject: Subject, data, from_shelf, tmp_path: Path) -> None:
    out = tmp_path / "student" / "a.onnx"
    out.parent.mkdir()
    strict = _proof(subject, data, int8=Tolerances(box_px=None, score=None, unmatched=None, moved=0.0, ap=1.0))
    with pytest.raises(ParityError, match=r"int8: share of scores that moved .* exceeds 0, kept as .*a\.failed\.onnx"):
        publish(subject, "int8", out, strict, Calibration(data["train"]), failed_folder=tmp_path / "failed")
    assert not list(out.parent.iterdir())
    assert sorted(path.name for path in (tmp_path / "failed").iterdir()) == ["a.failed.json", "a.failed.onnx"]
    verdict = json.loads((tmp_path / "failed" / "a.failed.json").read_text())
    assert verdict["passed"] is False and verdict["precision"] == "int8"


@pytest.mark.parametrize(
    ("milliseconds", "taken", "said"),
    [((3.0, 2.0, 1.0), "int8", "int8 is the fastest that passes; 3.00 times the latency with fp32; 2.00 times the latency with fp16"),
     ((3.0, 1.0, 2.0), "fp16", "fp16 is the fastest that passes, faster than int8: 1.00 against 2.00 ms"),
     ((1.0, 3.0, 2.0), "fp32", "fp32 is the fastest that passes, faster than int8: 1.00 against 2.00 ms")],
)  # fmt: skip
def test_auto_takes_the_fastest_and_says_so(
    monkeypatch, subject: Subject, data, from_shelf, tmp_path: Path, milliseconds, taken, said
) -> None:
    monkeypatch.setattr(precisions, "time_alternatives", lambda paths, target, seconds: [Timing(ms, ms, ms, 9) for ms in milliseconds])
    target = load_target("cpu-ort")
    found = publish(subject, "auto", tmp_path / "a.onnx", _proof(subject, data), Calibration(data["train"]), target=target)
    assert found.made.precision == taken and said in found.verdict
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]
    assert {row["precision"]: row["median_ms"] for row in found.rows} == dict(zip(("fp32", "fp16", "int8"), milliseconds, strict=True))
    with open_runner(tmp_path / "a.onnx", threads=1) as runner:
        assert runner.metadata.precision == taken


def test_auto_does_not_take_what_fails(monkeypatch, subject: Subject, data, from_shelf, tmp_path: Path) -> None:
    asked: list[int] = []

    def time(paths, target, seconds) -> list[Timing]:
        asked.append(len(paths))
        return [Timing(float(9 - at), 1, 9, 9) for at in range(len(paths))]

    monkeypatch.setattr(precisions, "time_alternatives", time)
    strict = _proof(subject, data, int8=Tolerances(box_px=None, score=None, unmatched=None, moved=0.0, ap=1.0))
    found = publish(subject, "auto", tmp_path / "a.onnx", strict, Calibration(data["train"]), target=load_target("cpu-ort"))
    assert asked == [2] and found.made.precision == "fp16" and "int8 failed the parity check" in found.verdict
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.int8.failed.json", "a.int8.failed.onnx", "a.onnx"]


def test_nothing_is_left_of_an_export_that_breaks_off(monkeypatch, subject: Subject, data, tmp_path: Path) -> None:
    def stopped(subject, precision, path, proof, calibration, say=None) -> Made:
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(precisions, "make", stopped)
    with pytest.raises(KeyboardInterrupt):
        publish(subject, "fp32", tmp_path / "a.onnx", _proof(subject, data), None)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_asked_for(subject: Subject, data, tmp_path: Path) -> None:
    proof, calibration = _proof(subject, data), Calibration(data["train"])
    with pytest.raises(ConfigError, match="known: auto, fp16, fp32, int8"):
        publish(subject, "int4", tmp_path / "a.onnx", proof, calibration)
    with pytest.raises(ConfigError, match="--data FOLDER"):
        publish(subject, "int8", tmp_path / "a.onnx", proof, None)
    with pytest.raises(ConfigError, match="--data FOLDER"):
        publish(subject, "auto", tmp_path / "a.onnx", proof, None, target=load_target("cpu-ort"))
    with pytest.raises(TargetError, match="cannot be measured here"):
        publish(subject, "auto", tmp_path / "a.onnx", proof, calibration, target=load_target("t4-trt"))
    with pytest.raises(
        ConfigError, match="'auto' times .onnx files, which runtime 'aoti' of target 'cpu-aoti' does not load; choose another"
    ):
        publish(subject, "auto", tmp_path / "a.onnx", proof, calibration, target=load_target("cpu-aoti"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "batches"), [("4", [4]), ("1,4", [1, 4]), ("1..3", [1, 2, 3]), ("2,1..3", [2, 1, 3])])
def test_lists_of_batches(text: str, batches: list[int]) -> None:
    assert ExportOptions(batch=text).batches == batches


@pytest.mark.parametrize("text", ["", "0", "a", "3..1", "1..", "-1", "1..99999"])
def test_wrong_lists_of_batches(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--batch takes numbers from 1 .*1\.\.8"):
        _ = ExportOptions(batch=text).batches


def test_lists_of_canvases_and_tolerances() -> None:
    options = ExportOptions(size="96x64,128x96", max_delta_ap=0.01)
    assert options.sizes_hw == [(64, 96), (96, 128)]
    assert {name: one.ap for name, one in options.limits.items()} == dict.fromkeys(("fp32", "fp16", "int8"), 0.01)
