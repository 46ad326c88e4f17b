import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdnas.training.checkpoint import load_detector, save_detector
from tests.pipeline.conftest import NanoRun, jdnas

pytestmark = pytest.mark.slow


def error_of(*arguments: object) -> str:
    code, _, err = jdnas(*arguments)
    assert code == 2 and len(err.splitlines()) == 1 and err.startswith("error: "), err
    return err


@pytest.fixture(params=[".safetensors", ".onnx"])
def model(request: pytest.FixtureRequest, nano_run: NanoRun) -> Path:
    return nano_run.student.with_suffix(request.param)


def test_eval_agrees_with_the_summary(nano_run: NanoRun, model: Path, tmp_path: Path) -> None:
    code, out, err = jdnas("eval", model, "--data", nano_run.folder / "shapes", "--out", tmp_path / "new" / "metrics.json")
    assert code == 0, err
    metrics = json.loads(out)
    assert metrics == json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert metrics["ap"] == pytest.approx(nano_run.summary["student"]["ap"], abs=1e-3) and metrics["images"] == 6


def test_predict(nano_run: NanoRun, model: Path, tmp_path: Path) -> None:
    images = nano_run.folder / "shapes" / "images"
    one = sorted(images.iterdir())[0]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    code, out, err = jdnas("predict", model, one, broken, "--out", tmp_path / "found", "--score", 0)
    assert code == 0, err
    assert "1 images drawn" in out and "broken.jpg" in out
    drawn = [path for path in (tmp_path / "found").iterdir() if path.suffix == ".jpg"]
    assert [path.name for path in drawn] == [f"00000_{one.stem}.jpg"]
    with Image.open(drawn[0]) as image:
        assert image.width >= 96
    found = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert [image["file_name"] for image in found["images"]] == [str(one)]
    assert [category["name"] for category in found["categories"]] == ["circle", "rectangle", "triangle"]
    assert found["annotations"]
    for detection in found["annotations"]:
        assert detection["image_id"] == found["images"][0]["id"] and detection["category_id"] in (1, 2, 3)
        left, top, width, height = detection["bbox"]
        assert 0 <= left <= left + width <= 96.01 and 0 <= top <= top + height <= 96.01 and 0 <= detection["score"] <= 1


def test_weights_and_engine_detect_the_same(nano_run: NanoRun, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 130, 3), dtype=np.uint8)).save(tmp_path / "wide.png")
    found = []
    for suffix in (".safetensors", ".onnx"):
        out = tmp_path / suffix
        assert jdnas("predict", nano_run.student.with_suffix(suffix), tmp_path / "wide.png", "--out", out, "--score", 0)[0] == 0
        found.append(json.loads((out / "detections.json").read_text())["annotations"])
    assert len(found[0]) == len(found[1]) > 0
    for first, second in zip(*found, strict=True):
        assert first["category_id"] == second["category_id"] and first["score"] == pytest.approx(second["score"], abs=1e-3)
        assert first["bbox"] == pytest.approx(second["bbox"], abs=0.2)


def test_predict_where_no_image_can_be_read(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    assert "none of the 1 images could be read" in error_of("predict", model, tmp_path, "--out", tmp_path / "found")
    assert not (tmp_path / "found").exists()


def test_export_another_size_and_batch(nano_run: NanoRun, tmp_path: Path) -> None:
    out = tmp_path / "folder" / "wide.onnx"
    code, said, err = jdnas("export", nano_run.student.with_suffix(".safetensors"), "--out", out, "--size", "96x64", "--batch", 2)
    assert code == 0, err
    assert "96x64, batch 2" in said and [path.name for path in out.parent.iterdir()] == ["wide.onnx"]
    code, said, err = jdnas("eval", out, "--data", nano_run.folder / "shapes")
    assert code == 0 and json.loads(said)["images"] == 6, err


def test_export_lists_in_int8_for_bytes(nano_run: NanoRun, tmp_path: Path) -> None:
    out, data = tmp_path / "small.onnx", nano_run.folder / "shapes"
    code, said, err = jdnas(
        "export", nano_run.student.with_suffix(".safetensors"), "--out", out, "--size", "64x64", "--batch", "1..2", "--precision", "int8",
        "--input", "uint8-nhwc", "--data", data, "--calibration-images", 4, "--max-delta-ap", 1,
    )  # fmt: skip
    assert code == 0, err
    names = ["small_64x64_b1.onnx", "small_64x64_b2.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(name in said for name in names) and "input uint8-nhwc; int8:" in said
    assert jdnas("predict", tmp_path / names[1], data / "images", "--out", tmp_path / "found", "--score", 0)[0] == 0
    code, said, err = jdnas("eval", tmp_path / names[1], "--data", data)
    assert code == 0 and json.loads(said)["images"] == 6, err


def test_wrong_precisions_and_forms(nano_run: NanoRun, tmp_path: Path) -> None:
    weights, out = nano_run.student.with_suffix(".safetensors"), tmp_path / "x.onnx"
    assert "known: auto, fp16, fp32, int8" in error_of("export", weights, "--out", out, "--precision", "int4")
    assert "--data FOLDER" in error_of("export", weights, "--out", out, "--precision", "int8")
    assert "known: image, normalized, uint8, uint8-nhwc" in error_of("export", weights, "--out", out, "--input", "jpeg")
    assert "one image of any size" in error_of("export", weights, "--out", out, "--input", "image", "--batch", 2)
    assert "ranges 1..8" in error_of("export", weights, "--out", out, "--batch", "1-8")
    assert "known: entropy, minmax, percentile" in error_of(
        "export", weights, "--out", out, "--precision", "int8", "--data", nano_run.folder / "shapes", "--calibration", "best"
    )
    assert list(tmp_path.iterdir()) == []


def test_wrong_sizes(nano_run: NanoRun, tmp_path: Path) -> None:
    weights, data = nano_run.student.with_suffix(".safetensors"), nano_run.folder / "shapes"
    assert "multiples of 32" in error_of("export", weights, "--out", tmp_path / "x.onnx", "--size", "100x64")
    assert "multiples of 32" in error_of("eval", weights, "--data", data, "--size", "100x64")
    assert "has its size inside" in error_of("eval", weights.with_suffix(".onnx"), "--data", data, "--size", "64x64")
    assert "end in .onnx" in error_of("export", weights, "--out", tmp_path / "x.engine")
    assert list(tmp_path.iterdir()) == []


def test_a_detector_that_does_not_say_its_size(nano_run: NanoRun, tmp_path: Path) -> None:
    spec, state, _ = load_detector(nano_run.student)
    save_detector(tmp_path / "plain", spec, state, {})
    assert "give it with --size" in error_of("export", tmp_path / "plain.safetensors", "--out", tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_wrong_split_runtime_and_classes(nano_run: NanoRun, model: Path, tmp_path: Path) -> None:
    data = nano_run.folder / "shapes"
    assert "unknown split 'test'; known: train, val" in error_of("eval", model, "--data", data, "--split", "test")
    engine = nano_run.student.with_suffix(".onnx")
    assert "unknown runtime 'tflite'" in error_of("eval", engine, "--data", data, "--runtime", "tflite")
    other = tmp_path / "other"
    shutil.copytree(data, other)
    document = json.loads((other / "annotations" / "val.json").read_text())
    document["categories"].append({"id": 9, "name": "star"})
    (other / "annotations" / "val.json").write_text(json.dumps(document))
    message = error_of("eval", model, "--data", other)
    assert "knows 3 classes" in message and "has 4: circle, rectangle, triangle, star" in message


def test_truncated_files(nano_run: NanoRun, tmp_path: Path) -> None:
    for suffix in (".safetensors", ".json", ".onnx"):
        shutil.copy(nano_run.student.with_suffix(suffix), tmp_path / f"student{suffix}")
    images = nano_run.folder / "shapes" / "images"
    for suffix, word in ((".safetensors", "truncated"), (".onnx", "cannot load")):
        path = tmp_path / f"student{suffix}"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        message = error_of("predict", path, images, "--out", tmp_path / "found")
        assert word in message and path.name in message
    assert not (tmp_path / "found").exists()
    (tmp_path / "student.json").write_text((tmp_path / "student.json").read_text()[:100])
    assert "not valid JSON" in error_of("predict", tmp_path / "student.safetensors", images)
