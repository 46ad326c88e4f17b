"""A data set in memory: one record per image, without the pixels and without torch."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val"]


def name_in(root: Path, path: Path) -> str:
    """Return the name of an image of a data set: its path from the set's folder on, or all of it where it lies elsewhere."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


@dataclass(frozen=True, eq=False)
class Record:
    """An image file and its boxes.

    height, width: of the decoded file after EXIF transposition. boxes_xyxy: `[N, 4]` float32 pixels inside the image;
    labels: `[N]` int64 in 1..K; crowd: `[N]` bool; areas: `[N]` float64 square pixels, of the mask where the file tells it.
    """

    image_id: int
    path: Path
    height: int
    width: int
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """One split of a data set; label `i` is `classes[i - 1]`, which the annotation file calls `category_ids[i - 1]`.

    problems: how many images and boxes were skipped or corrected, by reason; unreadable: the file names behind
    `missing_images` and `unreadable_images`; flawed: the images behind each reason, as `name_in` has it, missing ones as they are listed.
    """

    name: str
    root: Path
    split: Split
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: tuple[Record, ...]
    problems: dict[str, int] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    flawed: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that name this split's images and annotations, wherever the folder lies."""
        digest = hashlib.sha256(json.dumps([self.split, self.classes, self.category_ids]).encode())
        for record in self.records:
            digest.update(json.dumps([record.image_id, record.path.name, record.height, record.width]).encode())
            for array in (record.boxes_xyxy, record.labels, record.crowd, record.areas):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    @property
    def problem_summary(self) -> str:
        """One line for the user: what was skipped or corrected, with the names of unreadable files; empty if nothing was."""
        parts = [f"{count} {reason.replace('_', ' ')}" for reason, count in self.problems.items()]
        if self.unreadable:
            more = ", ..." if len(self.unreadable) > 5 else ""
            parts.append(f"skipped files: {', '.join(self.unreadable[:5])}{more}")
        return "; ".join(parts)

    def ground_truth(self) -> dict[str, Any]:
        """Return the kept images and boxes as a COCO document with the original image and category ids."""
        images = [{"id": r.image_id, "file_name": r.path.name, "height": r.height, "width": r.width} for r in self.records]
        annotations: list[dict[str, Any]] = []
        for record in self.records:
            xywh = record.boxes_xyxy.astype(np.float64)
            xywh[:, 2:] -= xywh[:, :2]
            for box, label, crowd, area in zip(xywh, record.labels, record.crowd, record.areas, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,  # pycocotools takes a matched annotation of id 0 for an unmatched one
                        "image_id": record.image_id,
                        "category_id": self.category_ids[int(label) - 1],
                        "bbox": box.tolist(),
                        "area": float(area),
                        "iscrowd": int(crowd),
                    }
                )
        categories = [{"id": i, "name": name} for i, name in zip(self.category_ids, self.classes, strict=True)]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}
