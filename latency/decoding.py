"""From an image file to detections: what a service pays besides the engine."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from export.session import Array
from jdnas.data.augment import letterbox, planes
from jdnas.data.images import read_image
from jdnas.errors import DataError
from latency.blocks import SizeHW
from latency.subjects import Subject

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


def image_files(place: Path) -> list[Path]:
    """Return an image, or the images of a folder; a DataError where there is none."""
    files = sorted(path for path in place.rglob("*") if path.suffix.lower() in _SUFFIXES) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise DataError(f"no images at {place}; known suffixes: {', '.join(sorted(_SUFFIXES))}")
    return files


def with_decoding(subject: Subject, files: Sequence[Path]) -> Callable[[], object]:
    """Return a call that reads and decodes the next files, letterboxes and normalizes them, and infers one batch."""
    stream = cycle(files)
    traits = subject.spec.traits
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (traits.mean, traits.std))

    def call() -> object:
        batch = [canvas(read_image(next(stream)), subject.size_hw, mean, std) for _ in range(subject.batch)]
        return subject.infer(np.stack([pixels for pixels, _ in batch]), np.array([size for _, size in batch], np.int64))

    return call


def canvas(image: Array, size_hw: SizeHW, mean: Array, std: Array) -> tuple[Array, SizeHW]:
    """Return an RGB image `[H, W, 3]` uint8 on the canvas, normalized `[3, H, W]`, and its size there."""
    scaled, _ = letterbox(image, size_hw)
    height, width = scaled.shape[:2]
    pixels = np.zeros((3, *size_hw), np.float32)
    pixels[:, :height, :width] = (planes(scaled) - mean) / std
    return pixels, (height, width)
