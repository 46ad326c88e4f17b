import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdnas.report.drawing import draw_detections, side_by_side, write_jpeg

NAMES = ("fish", "größe", "<b>")
BOXES = np.array([[10.0, 40.0, 90.0, 95.0], [100.0, 30.0, 150.0, 80.0]], np.float32)


def blank(height: int = 120, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), 200, np.uint8)


def test_boxes_are_drawn_on_a_copy_at_their_place() -> None:
    image = blank()
    drawn = draw_detections(image, BOXES, np.array([1, 2]), np.array([0.9, 0.4]), NAMES)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == 200).all()
    assert (drawn[70, 8:13] != 200).any(), "left edge of the first box"
    assert (drawn[55:65, 40:60] == 200).all(), "inside of the first box"
    assert (drawn[100:, 100:] == 200).all(), "far from all boxes"


def test_first_class_is_blue_in_rgb() -> None:
    drawn = draw_detections(blank(), BOXES[:1], np.array([1]), None, NAMES)
    edge = drawn[90:100, 50].astype(int)
    assert (edge[:, 2] - edge[:, 0]).max() > 100


def test_no_detections_leave_the_image() -> None:
    image = blank()
    drawn = draw_detections(image, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), NAMES)
    assert (drawn == image).all() and drawn is not image


def test_height_scales_image_and_boxes() -> None:
    drawn = draw_detections(blank(), BOXES, np.array([1, 2]), None, NAMES, height=240)
    assert drawn.shape == (240, 320, 3)
    assert (drawn[140, 16:25] != 200).any()
    assert (drawn[120:130, 80:120] == 200).all()


def test_labels_without_a_name_are_drawn() -> None:
    drawn = draw_detections(blank(), BOXES, np.array([3, 99]), np.array([1.0, 0.0]), NAMES)
    assert (drawn != 200).any()


def test_side_by_side_keeps_the_ratio_of_every_image() -> None:
    sheet = side_by_side([blank(), blank(100, 100)], ["base", "student"], height=60)
    assert sheet.shape == (60 + 28, 80 + 6 + 60, 3)
    assert (sheet[30:, :80] == 200).all()


def test_side_by_side_wants_a_caption_for_each() -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        side_by_side([blank()], ["a", "b"])


def test_write_jpeg_makes_its_folder(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "a/b.jpg", blank())
    with Image.open(tmp_path / "a/b.jpg") as image:
        assert image.size == (160, 120) and abs(int(np.asarray(image)[60, 80, 0]) - 200) < 3


def test_import_is_silent() -> None:
    code = "import warnings; warnings.simplefilter('error'); import jdnas.report.drawing"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and run.stdout == "", run.stderr[-500:]
