"""A synthetic data set of circles, rectangles and triangles: the embedded default, made on the fly in seconds."""

import colorsys
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from jdnas.atomic import write_atomically
from jdnas.data.records import Split
from jdnas.errors import ConfigError, DataError

CLASSES = ("circle", "rectangle", "triangle")
DEFAULT_TRAIN = 240
DEFAULT_VAL = 60
DEFAULT_SIZE = 128
DEFAULT_SEED = 0

_VERSION = 1
_MARKER = ".shapes.json"
_MIN_SIZE = 32
_OVERSAMPLING = 2  # shapes are drawn larger and reduced, which smooths their edges
_OBJECTS = (1, 6)
_EXTENT = (0.11, 0.46)  # longer side of a shape, of the image size: 14 to 59 pixels at 128
_MAX_COVERED = 0.4  # of the smaller of two boxes
_MIN_CONTRAST = 0.35  # RGB distance between a shape and the mean background, of sqrt(3)
_ATTEMPTS = 20
_Box = tuple[float, float, float, float]
_Colour = tuple[float, float, float]


def make_shapes(
    root: Path, *, train: int = DEFAULT_TRAIN, val: int = DEFAULT_VAL, size: int = DEFAULT_SIZE, seed: int = DEFAULT_SEED
) -> None:
    """Write `train` and `val` square images of `size` pixels, and their boxes, as a COCO folder.

    The same arguments give the same files. A complete set of the same arguments is kept and any other set of shapes is replaced;
    a DataError refuses to write into a folder that holds something else.
    """
    if train < 1 or val < 1 or size < _MIN_SIZE or seed < 0:
        raise ConfigError(f"shapes need train >= 1, val >= 1, size >= {_MIN_SIZE}, seed >= 0; got {train}, {val}, {size}, {seed}")
    wanted = {"version": _VERSION, "train": train, "val": val, "size": size, "seed": seed, "complete": True}
    marker = root / _MARKER
    if root.exists() and not marker.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{str(root)!r} exists and is no set of shapes; name a new folder for it")
    if _read_marker(marker) == wanted and _is_complete(root, train + val):
        return
    for folder in (root / "images", root / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)
    _write_json(marker, {**wanted, "complete": False})
    for stale in (root / "images").glob("shape_*.png"):
        stale.unlink()
    _write_split(root, "train", train, size, (seed, 0))
    _write_split(root, "val", val, size, (seed, 1))
    _write_json(marker, wanted)


def draw_shapes(size: int, rng: np.random.Generator) -> tuple[Image.Image, list[tuple[int, _Box]]]:
    """Draw one RGB image; returns it with (label 1..3, box xyxy in pixels) of each shape, later ones above earlier ones."""
    background = _background(rng)
    mean = background.mean(axis=(0, 1))
    canvas = Image.fromarray((background * 255).astype(np.uint8)).resize((size * _OVERSAMPLING,) * 2, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    shapes: list[tuple[int, _Box]] = []
    for _ in range(int(rng.integers(_OBJECTS[0], _OBJECTS[1] + 1))):
        for _ in range(_ATTEMPTS):
            label = int(rng.integers(1, len(CLASSES) + 1))
            outline = _outline(label, size, rng)
            box = (*outline.min(axis=0).tolist(), *outline.max(axis=0).tolist())
            if all(_covered(box, other) <= _MAX_COVERED for _, other in shapes):
                fill, edge = _contrasting(mean, rng), _contrasting(mean, rng)
                points = [(float(x), float(y)) for x, y in outline * _OVERSAMPLING]
                pen.polygon(points, fill=_rgb8(fill), outline=_rgb8(edge), width=_OVERSAMPLING)
                shapes.append((label, box))
                break
    pixels = np.asarray(canvas.reduce(_OVERSAMPLING)).astype(np.float32)
    noisy = pixels + 6 * rng.standard_normal((size, size, 1), np.float32)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)), shapes


def _outline(label: int, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the polygon `[N, 2]` of a shape at a random place inside the image."""
    extent = size * _EXTENT[0] * (_EXTENT[1] / _EXTENT[0]) ** rng.random()
    if label == 1:
        angles, stretch = np.linspace(0, 2 * math.pi, 48, endpoint=False), np.ones(2)
    elif label == 2:
        angles, stretch = np.arange(4) * math.pi / 2 + math.pi / 4, np.array([1.0, rng.uniform(0.6, 1.0)])
    else:
        angles, stretch = np.arange(3) * 2 * math.pi / 3 - math.pi / 2, np.array([1.0, rng.uniform(0.8, 1.2)])
    turn = rng.uniform(-0.5, 0.5)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * stretch
    corners = corners @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    corners -= corners.min(axis=0)
    corners *= extent / corners.max()
    outline: NDArray[np.float64] = corners + rng.random(2) * (size - corners.max(axis=0))
    return outline


def _background(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a coarse random texture of two colours, `[6, 6, 3]` in 0..1."""
    weight = rng.random((6, 6, 1))
    base = rng.uniform(0.15, 0.85, 3)
    other = np.clip(base + rng.uniform(-0.25, 0.25, 3), 0, 1)
    texture: NDArray[np.float64] = base * weight + other * (1 - weight)
    return texture


def _contrasting(background: NDArray[np.float64], rng: np.random.Generator) -> _Colour:
    colour = (0.0, 0.0, 0.0)
    for _ in range(_ATTEMPTS):
        colour = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.4, 1.0), rng.uniform(0.3, 1.0))
        if np.linalg.norm(np.array(colour) - background) >= _MIN_CONTRAST:
            break
    return colour


def _rgb8(colour: _Colour) -> tuple[int, int, int]:
    red, green, blue = (round(255 * value) for value in colour)
    return red, green, blue


def _covered(a: _Box, b: _Box) -> float:
    """Return the intersection of two boxes, as a part of the smaller one."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0.0) * max(height, 0.0) / smaller


def _write_split(root: Path, split: Split, count: int, size: int, seed: tuple[int, int]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        image, shapes = draw_shapes(size, np.random.default_rng((*seed, index)))
        file_name = f"shape_{split}_{index:05d}.png"
        image.save(root / "images" / file_name, compress_level=1)
        images.append({"id": index + 1, "file_name": file_name, "width": size, "height": size})
        for label, (x1, y1, x2, y2) in shapes:
            box = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label, "name": name, "supercategory": "shape"} for label, name in enumerate(CLASSES, start=1)]
    document = {"info": {"description": "jdnas shapes"}, "images": images, "annotations": annotations, "categories": categories}
    _write_json(root / "annotations" / f"{split}.json", document)


def _is_complete(root: Path, images: int) -> bool:
    annotated = all((root / "annotations" / f"{split}.json").is_file() for split in ("train", "val"))
    return annotated and sum(1 for _ in (root / "images").glob("shape_*.png")) == images


def _read_marker(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_json(path: Path, document: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(document).encode())
