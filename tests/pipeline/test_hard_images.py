"""Images and boxes that users really have, each through a whole training step and an evaluation."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jdnas.config import resolve
from jdnas.models.detector import build
from jdnas.pipeline.context import load_context
from jdnas.pipeline.detector_training import evaluate_detector, train_detector
from jdnas.pipeline.run_folder import RunFolder
from tests.pipeline.conftest import NANO

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
BOXES = [(5.0, 6.0, 30.0, 20.0), (20.0, 2.0, 38.0, 30.0)]


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grey_16_bits(path: Path) -> tuple[int, int]:
    Image.fromarray(noise(40, 60)[..., 0].astype(np.uint16) * 256).save(path.with_suffix(".png"))
    return 40, 60


def grey(path: Path) -> tuple[int, int]:
    Image.fromarray(noise(40, 60)[..., 0]).save(path.with_suffix(".png"))
    return 40, 60


def cmyk(path: Path) -> tuple[int, int]:
    Image.fromarray(noise(40, 60)).convert("CMYK").save(path.with_suffix(".jpg"))
    return 40, 60


def rotated(path: Path) -> tuple[int, int]:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(60, 40)).save(path.with_suffix(".jpg"), exif=exif)
    return 40, 60


def one_pixel(path: Path) -> tuple[int, int]:
    Image.fromarray(noise(1, 1)).save(path.with_suffix(".png"))
    return 1, 1


def wide(path: Path) -> tuple[int, int]:
    Image.fromarray(np.zeros((20, 10_000, 3), np.uint8)).save(path.with_suffix(".png"))
    return 20, 10_000


def large(path: Path) -> tuple[int, int]:
    Image.fromarray(np.zeros((10_000, 10_000), np.uint8)).save(path.with_suffix(".png"), compress_level=1)
    return 10_000, 10_000


def write(root: Path, save: Callable[[Path], tuple[int, int]], boxes: list[tuple[float, ...]]) -> Path:
    """Write both splits: an image of the kind under test, and a usual one, which keeps the set trainable."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        height, width = save(root / "images" / f"{split}_hard")
        Image.fromarray(noise(40, 60)).save(root / "images" / f"{split}_usual.png")
        hard = next((root / "images").glob(f"{split}_hard.*")).name
        images = [{"id": 1, "file_name": hard, "height": height, "width": width},
                  {"id": 2, "file_name": f"{split}_usual.png", "height": 40, "width": 60}]  # fmt: skip
        found = [(1, box) for box in boxes] + [(2, box) for box in BOXES]
        annotations = [
            {"id": i, "image_id": image, "category_id": 1, "bbox": list(box), "iscrowd": 0} for i, (image, box) in enumerate(found)
        ]
        document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(document))
    return root


def crowd_of(count: int) -> list[tuple[float, ...]]:
    rng = np.random.default_rng(1)
    corner, side = rng.uniform(0, 30, (count, 2)), rng.uniform(3, 9, (count, 2))
    return [tuple(box) for box in np.concatenate((corner, side), 1).tolist()]


@pytest.mark.parametrize(
    ("save", "boxes"),
    [
        (grey_16_bits, BOXES), (grey, BOXES), (cmyk, BOXES), (rotated, BOXES), (one_pixel, [(0.0, 0.0, 1.0, 1.0)]),
        (wide, [(5000.0, 2.0, 400.0, 15.0)]), (large, [(2000.0, 3000.0, 4000.0, 5000.0)]), (grey, []), (grey, crowd_of(5000)),
    ],
    ids=["16 bits", "grey", "CMYK", "EXIF rotation", "1 pixel", "10,000 pixels wide", "10,000 x 10,000", "no box", "5,000 boxes"],
)  # fmt: skip
def test_a_training_step_and_an_evaluation(save: Callable[[Path], tuple[int, int]], boxes: list[tuple[float, ...]], tmp_path: Path) -> None:
    data = write(tmp_path / "data", save, boxes)
    config = resolve(str(NANO), {"data": str(data), "base_train": {"batch": 2}})
    context = load_context(config, RunFolder(tmp_path / "run"))
    assert context.train.problems == {} and len(context.train.records[0].labels) == len(boxes)
    torch.manual_seed(0)
    state, report = train_detector(context, context.base_spec, build(context.base_spec).state_dict(), config.base_train, seed=0, steps=1)
    assert (report.steps, report.skipped) == (1, 0) and all(math.isfinite(loss) for _, loss in report.curve)
    metrics = evaluate_detector(context, context.base_spec, state, context.base_size_hw)
    assert metrics.images == 2 and 0 <= metrics.ap <= 1
