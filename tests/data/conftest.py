"""A writer of small COCO folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

WriteCoco = Callable[..., Path]


@pytest.fixture
def write_coco(tmp_path: Path) -> WriteCoco:
    """Write one split: `boxes` holds, per image, (category id, xywh) pairs or whole annotations."""

    def write(
        split: str = "train",
        *,
        boxes: list[list[Any]],
        size_hw: tuple[int, int] = (40, 60),
        categories: dict[int, str] | None = None,
        images: str = "images",
        annotations: str | None = None,
        name: str = "set",
    ) -> Path:
        root = tmp_path / name
        (root / images).mkdir(parents=True, exist_ok=True)
        (root / "annotations").mkdir(exist_ok=True)
        height, width = size_hw
        entries = []
        listed = []
        for index, image_boxes in enumerate(boxes):
            pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / images / f"{split}{index}.png")
            listed.append({"id": 10 + index, "file_name": f"{split}{index}.png", "height": height, "width": width})
            for box in image_boxes:
                entry = dict(box) if isinstance(box, dict) else {"category_id": box[0], "bbox": list(box[1]), "iscrowd": 0}
                entries.append({"id": len(entries), "image_id": 10 + index, **entry})
        names = categories or {1: "cat", 2: "dog"}
        document = {"images": listed, "annotations": entries, "categories": [{"id": i, "name": n} for i, n in names.items()]}
        (root / "annotations" / (annotations or f"{split}.json")).write_text(json.dumps(document))
        return root

    return write
