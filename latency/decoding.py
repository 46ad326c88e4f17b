"""From an image file to detections: what a service pays besides the engine."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from jdnas.data.images import read_image
from jdnas.errors import DataError
from latency.subjects import Subject

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


def image_files(place: Path) -> list[Path]:
    """Return an image, or the images of a folder; a DataError where there is none."""
    files = sorted(path for path in place.rglob("*") if path.suffix.lower() in _SUFFIXES) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise DataError(f"no images at {place}; known suffixes: {', '.join(sorted(_SUFFIXES))}")
    return files


def with_decoding(subject: Subject, files: Sequence[Path]) -> Callable[[], object]:
    """Return a call that reads and decodes the next files, puts them into the subject's input form, and infers one batch."""
    stream = cycle(files)

    def call() -> object:
        ready = [subject.prepare(read_image(next(stream))) for _ in range(subject.batch)]
        images, sizes = (np.concatenate(parts) for parts in zip(*ready, strict=True))
        return subject.infer(images, sizes)

    return call
