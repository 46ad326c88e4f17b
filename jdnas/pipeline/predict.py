"""`jdnas predict`: detect in images, folders and videos; draw what is found, and write it as a COCO document."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from jdnas.atomic import write_atomically
from jdnas.data.images import read_image
from jdnas.data.video import VIDEO_SUFFIXES, VideoWriter, open_video
from jdnas.errors import DataError, InputError
from jdnas.pipeline.progress import CountCallback, counting
from jdnas.pipeline.single import OpenModel, detect_in_image, open_model
from jdnas.report.drawing import draw_detections, write_jpeg

Json = dict[str, Any]
Pixels = NDArray[np.uint8]
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True)
class Detections:
    """What was found in one image, best first.

    boxes_xyxy: `[N, 4]` pixels of the image; labels: `[N]` in 1..K; scores: `[N]` in 0..1; classes: names of all labels;
    image: `[H, W, 3]` uint8 RGB.
    """

    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    classes: tuple[str, ...]
    image: Pixels = field(repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> tuple[str, ...]:
        """The class of each detection."""
        return tuple(self.classes[label - 1] for label in self.labels)

    def draw(self) -> Image.Image:
        """Return the image with boxes, names and scores drawn on it."""
        return Image.fromarray(draw_detections(self.image, self.boxes_xyxy, self.labels, self.scores, self.classes))

    def annotations(self, image_id: int, first_id: int) -> list[Json]:
        """Return the detections as annotations of a COCO document: xywh boxes in pixels, category ids 1..K, and scores."""
        return [
            {"id": first_id + place, "image_id": image_id, "category_id": int(label), "score": float(value), "iscrowd": 0,
             "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)], "area": float((x1 - x0) * (y1 - y0))}
            for place, ((x0, y0, x1, y1), label, value) in enumerate(zip(self.boxes_xyxy, self.labels, self.scores, strict=True))
        ]  # fmt: skip


def detections_in(model: OpenModel, image: Pixels, score: float) -> Detections:
    """Detect in one RGB image `[H, W, 3]` uint8."""
    boxes, labels, scores = detect_in_image(model, image, score)
    return Detections(boxes.astype(np.float32), labels.astype(np.int64), scores.astype(np.float32), model.classes, image)


@dataclass(frozen=True, slots=True)
class Predictions:
    """What `predict_files` did: images and video frames that were looked at, detections in them, and files that could not be read."""

    out: Path
    images: int
    frames: int
    detections: int
    skipped: tuple[str, ...]

    @property
    def json(self) -> Path:
        """The COCO document with all detections."""
        return self.out / "detections.json"

    def to_dict(self) -> Json:
        """Return plain JSON data."""
        return {"out": str(self.out), "json": str(self.json), "images": self.images, "frames": self.frames,
                "detections": self.detections, "skipped": list(self.skipped)}  # fmt: skip


class _Document:
    """A COCO document that grows image by image."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.images: list[Json] = []
        self.annotations: list[Json] = []
        self._categories = [{"id": index, "name": name} for index, name in enumerate(classes, 1)]

    def add(self, found: Detections, file_name: str, **facts: float) -> None:
        height, width = found.image.shape[:2]
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, "width": width, "height": height, **facts})
        self.annotations += found.annotations(len(self.images), len(self.annotations) + 1)

    def text(self) -> str:
        document = {"info": {"description": "detections of jdnas"}, "images": self.images, "annotations": self.annotations,
                    "categories": self._categories}  # fmt: skip
        return json.dumps(document, indent=1) + "\n"


def files_in(places: Sequence[Path]) -> list[Path]:
    """Return the images and videos that `places` (files and folders) name; a DataError where there are none."""
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            files += sorted(path for path in place.rglob("*") if path.suffix.lower() in suffixes)
        elif place.exists():
            files.append(place)
        else:
            raise DataError(f"no such image, video or folder: {place}")
    if not files:
        raise DataError(f"no images in {', '.join(map(str, places))}, and no videos; known suffixes: {', '.join(sorted(suffixes))}")
    return files


def predict_files(
    model: Path, places: Sequence[Path], out: Path, *, score: float, size: str | None, runtime: str, every: int, console: Console,
    quiet: bool = False,
) -> Predictions:  # fmt: skip
    """Detect in all images, and in every `every`-th frame of all videos; write each drawn, and one detections.json.

    Files that cannot be read are named in the result; a DataError where that is all of them.
    """
    files, skipped, frames = files_in(places), list[str](), 0
    with open_model(model, size, runtime) as opened, counting(console, quiet=quiet) as count:
        document = _Document(opened.classes)
        for number, path in enumerate(files):
            stem = out / f"{number:05d}_{path.stem}"
            try:
                if path.suffix.lower() in VIDEO_SUFFIXES:
                    seen, damage = _video(opened, path, stem.with_name(stem.name + ".mp4"), score, every, document, count)
                    frames += seen
                    skipped += [f"the rest of {path} ({damage})"] if damage else []
                else:
                    found = detections_in(opened, read_image(path), score)
                    write_jpeg(stem.with_name(stem.name + ".jpg"), np.asarray(found.draw()))
                    document.add(found, str(path))
            except InputError as error:
                skipped.append(f"{path} ({error})")
            count("detecting", number + 1, len(files))
    if not document.images:
        raise DataError(f"none of the {len(files)} images could be read; the first: {skipped[0]}")
    write_atomically(out / "detections.json", document.text().encode())
    return Predictions(out, len(document.images) - frames, frames, len(document.annotations), tuple(skipped))


def _video(
    model: OpenModel, path: Path, out: Path, score: float, every: int, document: _Document, count: CountCallback
) -> tuple[int, str]:  # fmt: skip
    """Detect in one video and write it drawn; return how many frames were looked at, and what ended it where it is damaged."""
    done = 0
    with open_video(path) as video, VideoWriter(out, video.rate / every) as drawn:
        try:
            for frame in video.read(every):
                found = detections_in(model, frame.pixels, score)
                drawn.write(np.asarray(found.draw()))
                document.add(found, str(path), frame=frame.number, time_s=round(frame.time_s, 6))
                done += 1
                count(f"detecting in {path.name}", done, max(done, -(-video.frames // every)))
        except DataError as error:
            if not done:
                raise
            return done, str(error)
        if not done:
            raise DataError(f"video {str(path)!r} has no frames; repair or remove it")
    return done, ""
