"""The boxes of one image, out of the annotations of a COCO file."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from jdnas.data.records import Record

Entry = dict[str, Any]
_Box = tuple[float, float, float, float]

_CLIP_TOLERANCE_PX = 0.01  # rounding in annotation tools is not worth a message


def record(
    image_id: int, path: Path, size_hw: tuple[int, int], entries: list[Entry], labels: dict[int, int], problems: Counter[str]
) -> Record:
    """Make the record of an image from its annotations; `labels` maps category ids, `problems` counts what does not fit."""
    rows = list(_usable_boxes(entries, size_hw, labels, problems))
    return Record(
        image_id=image_id,
        path=path,
        height=size_hw[0],
        width=size_hw[1],
        boxes_xyxy=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        labels=np.array([row[1] for row in rows], np.int64),
        crowd=np.array([row[2] for row in rows], np.bool_),
        areas=np.array([row[3] for row in rows], np.float64),
    )


def is_int(value: object) -> TypeGuard[int]:
    """Whether a JSON value is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _usable_boxes(
    entries: list[Entry], size_hw: tuple[int, int], labels: dict[int, int], problems: Counter[str]
) -> Iterator[tuple[_Box, int, bool, float]]:
    """Yield (xyxy inside the image, label, crowd, area) of the annotations that can be used, and count the others."""
    for entry in entries:
        xywh, category_id, area = entry.get("bbox"), entry.get("category_id"), entry.get("area")
        if not isinstance(xywh, list) or len(xywh) != 4 or not all(_is_number(value) for value in xywh):
            problems["malformed_boxes"] += 1
        elif not is_int(category_id) or category_id not in labels:
            problems["unknown_category_boxes"] += 1
        elif xywh[2] <= 0 or xywh[3] <= 0:
            problems["zero_size_boxes"] += 1
        elif (box := _clipped(xywh, size_hw, problems)) is None:
            problems["outside_boxes"] += 1
        else:
            inside = (box[2] - box[0]) * (box[3] - box[1])
            yield box, labels[category_id], bool(entry.get("iscrowd")), min(area, inside) if _is_number(area) and area > 0 else inside


def _clipped(xywh: list[float], size_hw: tuple[int, int], problems: Counter[str]) -> _Box | None:
    """Return the part inside the image as xyxy, or None where nothing of it is left in float32."""
    height, width = size_hw
    x1, y1, x2, y2 = xywh[0], xywh[1], xywh[0] + xywh[2], xywh[1] + xywh[3]
    box = (min(max(x1, 0.0), width), min(max(y1, 0.0), height), min(max(x2, 0.0), width), min(max(y2, 0.0), height))
    left, top, right, bottom = np.array(box, np.float32)
    if right <= left or bottom <= top:
        return None
    problems["clipped_boxes"] += max(abs(a - b) for a, b in zip(box, (x1, y1, x2, y2), strict=True)) > _CLIP_TOLERANCE_PX
    return box
