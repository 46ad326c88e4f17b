"""Letterboxing and augmentation of decoded images, as pure functions; randomness comes in as a numpy Generator.

A letterboxed image has been scaled by one factor to fit a canvas and lies at the canvas' top left.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from jdnas.errors import ConfigError

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_YIQ_FROM_RGB = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_RGB_FROM_YIQ = np.linalg.inv(_YIQ_FROM_RGB)
_MIN_BOX_PX = 1.0
_ROUND_UP = 1 + 1e-9  # lets 512 * (320 / 512) be 320 and not 319


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """How training images vary.

    flip: probability of mirroring left to right. brightness, contrast, saturation: a factor is drawn from `1 ± value`.
    hue: turns of the colour circle drawn from `± value`, at most 0.5. zoom: range of a factor on the letterbox scale; above 1 the
    image is cropped to the canvas at a random place.
    """

    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02
    zoom: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        for name, top in (("flip", 1.0), ("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            if not 0.0 <= getattr(self, name) <= top:
                raise ConfigError(f"augmentation {name} is {getattr(self, name)}; it must lie in 0..{top:g}")
        if not 0.0 < self.zoom[0] <= self.zoom[1] < math.inf:
            raise ConfigError(f"augmentation zoom is {self.zoom}; it must be a range (low, high) with 0 < low <= high")


NO_AUGMENT = AugmentSettings(flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)


@dataclass(frozen=True, slots=True)
class View:
    """A part of an image and the size at which it is seen: `(x - left) * scale` maps original to canvas pixels."""

    scale: float
    left: int
    top: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Sample:
    """An image `[3, h, w]` float32 in 0..1 that fits its canvas, and what is left of its boxes, in canvas pixels."""

    image: Floats
    boxes_xyxy: Floats
    labels: NDArray[np.int64]
    scale: float


def fit(image_hw: tuple[int, int], size_hw: tuple[int, int], zoom: float = 1.0, place_yx: tuple[float, float] = (0.5, 0.5)) -> View:
    """Return the view that scales an image into a canvas, cropped at relative position `place_yx` where zoom makes it too large.

    The visible size is rounded down, so that one factor is exact for both axes; less than one canvas pixel is cut off.
    """
    scale = min(canvas / side for canvas, side in zip(size_hw, image_hw, strict=True)) * zoom * _ROUND_UP
    seen = [min(max(math.floor(side * scale), 1), canvas) for side, canvas in zip(image_hw, size_hw, strict=True)]
    slack = [
        max(side - part / scale - 1e-6, 0.0) if side * scale >= canvas + 1 else 0.0
        for side, part, canvas in zip(image_hw, seen, size_hw, strict=True)
    ]
    top, left = (math.floor(place * room) for place, room in zip(place_yx, slack, strict=True))
    return View(scale, left, top, seen[0], seen[1])


def look(image: Pixels, view: View) -> Pixels:
    """Return the pixels `[h, w, 3]` of a view, bilinear and antialiased."""
    bottom, right = (start + math.ceil(seen / view.scale) + 1 for start, seen in ((view.top, view.height), (view.left, view.width)))
    source = torch.from_numpy(image[view.top : bottom, view.left : right]).permute(2, 0, 1)[None]
    if min(source.shape[2:]) * view.scale < 1:  # a sliver, of which nothing would be left
        resized = interpolate(source, size=(view.height, view.width), mode="bilinear", antialias=True)
    else:  # torchvision's and Pillow's arithmetic, with the exact factor rather than the ratio of the rounded sizes
        resized = interpolate(source, scale_factor=view.scale, mode="bilinear", antialias=True, recompute_scale_factor=False)
    return resized[0, :, : view.height, : view.width].permute(1, 2, 0).numpy()


def letterbox(image: Pixels, size_hw: tuple[int, int]) -> tuple[Pixels, float]:
    """Scale an RGB image `[H, W, 3]` uint8 to fit a canvas.

    Returns its pixels `[h, w, 3]`, not yet padded, and the factor from original to canvas coordinates.
    """
    view = fit((image.shape[0], image.shape[1]), size_hw)
    return look(image, view), view.scale


def planes(image: Pixels) -> Floats:
    """Return `[H, W, 3]` uint8 as `[3, H, W]` float32 in 0..1."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32) * np.float32(1 / 255)


def unaugmented(image: Pixels, boxes_xyxy: Floats, labels: NDArray[np.int64], size_hw: tuple[int, int]) -> Sample:
    """Letterbox an image and its boxes; those smaller than one canvas pixel are dropped."""
    view = fit((image.shape[0], image.shape[1]), size_hw)
    boxes, kept = _boxes_in_view(boxes_xyxy, view)
    return Sample(planes(look(image, view)), boxes, labels[kept], view.scale)


def augmented(
    image: Pixels, boxes_xyxy: Floats, labels: NDArray[np.int64], size_hw: tuple[int, int],
    settings: AugmentSettings, rng: np.random.Generator,
) -> Sample:  # fmt: skip
    """Zoom, crop, mirror and recolour an image at random; boxes follow, and those left smaller than one pixel are dropped."""
    low, high = settings.zoom
    zoom, place_yx = low + (high - low) * rng.random(), (rng.random(), rng.random())
    mirror = rng.random() < settings.flip
    view = fit((image.shape[0], image.shape[1]), size_hw, zoom, place_yx)
    pixels = look(image, view)
    boxes, kept = _boxes_in_view(boxes_xyxy, view)
    if mirror:
        pixels = pixels[:, ::-1]
        boxes = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([view.width, 0, view.width, 0], np.float32)
    return Sample(recoloured(planes(pixels), settings, rng), boxes, labels[kept], view.scale)


def recoloured(image: Floats, settings: AugmentSettings, rng: np.random.Generator) -> Floats:
    """Vary brightness, contrast, saturation and hue of `[3, H, W]` in 0..1.

    All four are linear in the colour, so they are one 3x3 matrix and an offset; hue turns about the grey axis in YIQ.
    """
    factors = 1.0 + np.array([settings.brightness, settings.contrast, settings.saturation]) * rng.uniform(-1, 1, 3)
    turn = 2 * math.pi * settings.hue * rng.uniform(-1, 1)
    if turn == 0 and (factors == 1).all():
        return image
    brightness, contrast, saturation = factors
    rotation = np.array([[1, 0, 0], [0, math.cos(turn), -math.sin(turn)], [0, math.sin(turn), math.cos(turn)]])
    colour = saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), _LUMA)
    matrix = (brightness * contrast * (_RGB_FROM_YIQ @ rotation @ _YIQ_FROM_RGB) @ colour).astype(np.float32)
    flat = image.reshape(3, -1)
    offset = np.float32((1 - contrast) * brightness * float(_LUMA @ flat.mean(axis=1)))
    out: Floats = matrix @ flat
    out += offset
    return np.clip(out, 0.0, 1.0, out=out).reshape(image.shape)


def _boxes_in_view(boxes_xyxy: Floats, view: View) -> tuple[Floats, NDArray[np.bool_]]:
    moved = (boxes_xyxy - np.array([view.left, view.top] * 2, np.float32)) * np.float32(view.scale)
    moved = np.clip(moved, 0, np.array([view.width, view.height] * 2, np.float32))
    kept = (moved[:, 2:] - moved[:, :2] >= _MIN_BOX_PX).all(axis=1)
    return moved[kept], kept
