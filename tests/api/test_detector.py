import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import jdnas
from jdnas.data.video import VideoWriter, open_video
from jdnas.errors import CheckpointError, ConfigError, DataError

CLASSES = ("circle", "square")


def picture(seed: int = 0, size_hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


@pytest.fixture(params=[".safetensors", ".onnx"])
def detector(request: pytest.FixtureRequest, tiny: Path):
    with jdnas.load(tiny.with_suffix(request.param)) as opened:
        yield opened


def test_what_a_detector_says_of_itself(detector) -> None:
    assert detector.classes == CLASSES and detector.size_hw == (64, 96) and detector.spec.family == "resnet_basic"
    assert "resnet_basic, 2 classes, 96x64" in repr(detector)


def test_all_kinds_of_images_give_the_same(detector, tmp_path: Path) -> None:
    pixels = picture()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = [detector.predict(image, score=0.0) for image in (pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.png"))]
    assert len(found[0]) > 0
    for one in found:
        np.testing.assert_array_equal(one.boxes_xyxy, found[0].boxes_xyxy)
        assert one.names == found[0].names and set(one.names) <= set(CLASSES)
    first = found[0]
    assert (first.scores[:-1] >= first.scores[1:]).all() and (first.boxes_xyxy >= 0).all() and (first.boxes_xyxy <= [64, 48, 64, 48]).all()
    limit = float(first.scores[len(first) // 2])
    assert len(detector.predict(pixels, score=limit)) == int((first.scores >= limit).sum())
    assert first.draw().size == (64, 48) and np.asarray(first.draw()).any()
    rotated = Image.fromarray(pixels)
    rotated.getexif()[0x0112] = 6
    assert detector.predict(rotated, score=0.0).image.shape == (64, 48, 3)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_that_are_no_images(detector, image: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"must be \[H, W, 3\] uint8"):
        detector.predict(image)


def test_weights_and_engine_agree(tiny: Path) -> None:
    with jdnas.load(tiny) as weights, jdnas.load(tiny.with_suffix(".onnx")) as engine:
        first, second = (one.predict(picture(), score=0.0) for one in (weights, engine))
    np.testing.assert_allclose(first.boxes_xyxy, second.boxes_xyxy, atol=0.05)
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-4)


def test_export_evaluate_benchmark(tiny: Path, tmp_path: Path) -> None:
    jdnas_data = write_set(tmp_path / "set")
    with jdnas.load(tiny) as detector:
        out = detector.export(tmp_path / "b2.onnx", batch=2)
        metrics = detector.evaluate(jdnas_data, quiet=True)
        report = detector.benchmark(seconds=0.05)
    assert metrics.images == 3 and metrics == jdnas.evaluate(out, jdnas_data, quiet=True, out=tmp_path / "m.json")
    assert json.loads((tmp_path / "m.json").read_text())["images"] == 3
    assert report.rows[0].batch == 1 and report.rows[0].median_ms > 0
    with jdnas.load(out) as engine, pytest.raises(CheckpointError, match="is an engine"):
        engine.export(tmp_path / "again.onnx")


def test_what_cannot_be_opened(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        jdnas.load(tmp_path / "none.onnx")
    with pytest.raises(ConfigError, match="has its size inside"):
        jdnas.load(tiny.with_suffix(".onnx"), size="64x64")


def write_set(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        images = [{"id": i, "file_name": f"{split}{i}.png"} for i in range(3)]
        for i, entry in enumerate(images):
            Image.fromarray(picture(i)).save(root / "images" / entry["file_name"])
        boxes = [{"id": i + 1, "image_id": i, "category_id": 1 + i % 2, "bbox": [4, 4, 20, 20], "iscrowd": 0} for i in range(3)]
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
        document = {"images": images, "annotations": boxes, "categories": categories}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(document))
    return root


def write_video(path: Path, frames: int = 7, rate: int = 10) -> list[np.ndarray]:
    """Write a bright square that moves to the right by 8 pixels a frame."""
    drawn = []
    with VideoWriter(path, Fraction(rate)) as video:
        for number in range(frames):
            pixels = np.full((48, 64, 3), 40, np.uint8)
            pixels[16:32, 8 * number : 8 * number + 8] = 220
            drawn.append(pixels)
            video.write(pixels)
    return drawn


def test_videos_are_read_as_they_were_written(tmp_path: Path) -> None:
    drawn = write_video(tmp_path / "a.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    with open_video(tmp_path / "a.mp4") as video:
        frames = list(video.read())
        assert (video.rate, video.frames) == (10, 7)
    assert [(frame.number, round(frame.time_s, 3)) for frame in frames] == [(i, i / 10) for i in range(7)]
    for frame, pixels in zip(frames, drawn, strict=True):
        assert np.abs(frame.pixels.astype(int) - pixels).mean() < 6
    with open_video(tmp_path / "a.mp4") as video:
        assert [frame.number for frame in video.read(3)] == [0, 3, 6]


def test_predict_images_and_videos(tiny: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    folder = tmp_path / "in"
    folder.mkdir()
    write_video(folder / "b.mp4")
    Image.fromarray(picture(1, (50, 33))).save(folder / "a.png")
    (folder / "c.mp4").write_bytes(b"no video")
    done = jdnas.predict(tiny, folder, out=tmp_path / "out", score=0.0, every=2, quiet=True)
    assert (done.images, done.frames, len(done.skipped)) == (1, 4, 1) and "c.mp4" in done.skipped[0]
    assert sorted(path.name for path in done.out.iterdir()) == ["00000_a.jpg", "00001_b.mp4", "detections.json"]
    document = COCO(str(done.json))
    images = document.loadImgs(document.getImgIds())
    assert [(i["width"], i["height"], i.get("frame"), i.get("time_s")) for i in images] == [
        (33, 50, None, None), *((64, 48, n, n / 10) for n in (0, 2, 4, 6))
    ]  # fmt: skip
    assert len(document.getAnnIds()) == done.detections > 0
    for one in document.loadAnns(document.getAnnIds()):
        assert 0 <= one["score"] <= 1 and one["area"] == pytest.approx(one["bbox"][2] * one["bbox"][3], abs=1e-3)
    with open_video(done.out / "00001_b.mp4") as video:
        assert len(list(video.read())) == 4 and float(video.rate) == 5


def test_a_video_without_frames_is_told(tiny: Path, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(DataError, match=r"none of the 1 images could be read; the first: .*a.avi' has no frames; repair or remove it"):
        jdnas.predict(tiny, tmp_path / "a.avi", out=tmp_path / "out", quiet=True)
    Image.fromarray(picture()).save(tmp_path / "b.png")
    done = jdnas.predict(tiny, tmp_path, out=tmp_path / "out", quiet=True)
    assert done.images == 1 and len(done.skipped) == 1 and "a.avi" in done.skipped[0]


def test_the_rest_of_a_damaged_video_is_told(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_video(tmp_path / "whole.mp4", frames=60)
    data = bytearray((tmp_path / "whole.mp4").read_bytes())
    path.write_bytes(bytes(data[: len(data) // 2]))  # an mp4 without its index cannot be opened at all
    with pytest.raises(DataError, match="none of the 1 images could be read"):
        jdnas.predict(tiny, path, out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
