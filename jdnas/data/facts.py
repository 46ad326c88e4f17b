"""What is in a split of a data set, in numbers: counts per class, and histograms of sizes and shapes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jdnas.data.records import DetectionSet, Record

_EDGES = {
    "image long side (px)": (0, 128, 256, 320, 416, 512, 640, 800, 1024, 1333, 2048, 4096),
    "image width / height": (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95, 1.05, 1.25, 1.4, 1.6, 2.0, 2.5, 4.0),
    "box side (px)": (0, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024),
    "box width / height": (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0),
    "box share of the image (%)": (0, 0.1, 0.5, 1, 2, 5, 10, 25, 50, 75, 95, 100),
}


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie between neighbouring edges; what lies beyond the outer ones counts with the outer bins."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """Counts and histograms of one split. `classes` maps names to boxes and images with such a box; crowd regions count apart."""

    images: int
    boxes: int
    crowd: int
    classes: dict[str, dict[str, int]]
    histograms: dict[str, Histogram]
    fingerprint: str


def facts(data: DetectionSet) -> SplitFacts:
    """Count what is in a split."""
    kept = [objects_of(record) for record in data.records]
    boxes, images = Counter[int](), Counter[int]()
    for _, labels in kept:
        boxes.update(labels.tolist())
        images.update(set(labels.tolist()))
    classes = {name: {"boxes": boxes[label], "images": images[label]} for label, name in enumerate(data.classes, 1)}
    crowd = sum(int(record.crowd.sum()) for record in data.records)
    return SplitFacts(len(data.records), boxes.total(), crowd, classes, _histograms(data.records), data.fingerprint)


def objects_of(record: Record) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return boxes xyxy and labels of a record without its crowd regions."""
    return record.boxes_xyxy[~record.crowd], record.labels[~record.crowd]


def _histograms(records: Sequence[Record]) -> dict[str, Histogram]:
    sizes = np.array([(record.width, record.height) for record in records], np.float64).reshape(-1, 2)
    sides = [objects_of(record)[0][:, 2:] - objects_of(record)[0][:, :2] for record in records]
    boxes = np.concatenate([*sides, np.zeros((0, 2))]).astype(np.float64)
    areas = np.repeat(sizes.prod(1), [len(one) for one in sides])
    values = (sizes.max(1, initial=0), sizes[:, 0] / sizes[:, 1], np.sqrt(boxes.prod(1)), boxes[:, 0] / boxes[:, 1],
              100 * boxes.prod(1) / areas)  # fmt: skip
    result = {}
    for (name, edges), found in zip(_EDGES.items(), values, strict=True):
        counts = np.histogram(np.clip(found, edges[0], edges[-1]), edges)[0]
        result[name] = Histogram(tuple(map(float, edges)), tuple(counts.tolist()))
    return result
