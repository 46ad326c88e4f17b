"""From a decoded image to a detector's input and back: what evaluation, prediction and serving do alike."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jdnas.data.augment import Pixels, letterbox, planes


@dataclass(frozen=True, slots=True)
class Placed:
    """An image on a canvas.

    pixels: `[3, H, W]`, zero outside the image: normalized float32, or RGB bytes. size_hw: the part that it covers, from the top left.
    scale: canvas pixels per image pixel. image_hw: the size of the image itself.
    """

    pixels: NDArray[Any]
    size_hw: tuple[int, int]
    scale: float
    image_hw: tuple[int, int]


def place_on_canvas(image: Pixels, canvas_hw: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> Placed:
    """Letterbox an RGB image `[H, W, 3]` uint8 and normalize it with `mean` and `std` of RGB in 0..1."""
    seen, scale = letterbox(image, canvas_hw)
    height, width = seen.shape[:2]
    pixels = np.zeros((3, *canvas_hw), np.float32)
    pixels[:, :height, :width] = (planes(seen) - np.array(mean, np.float32)[:, None, None]) / np.array(std, np.float32)[:, None, None]
    return Placed(pixels, (height, width), scale, (image.shape[0], image.shape[1]))


def place_bytes(image: Pixels, canvas_hw: tuple[int, int]) -> Placed:
    """Letterbox an RGB image `[H, W, 3]` uint8 and leave its pixels as they are."""
    seen, scale = letterbox(image, canvas_hw)
    height, width = seen.shape[:2]
    pixels = np.zeros((3, *canvas_hw), np.uint8)
    pixels[:, :height, :width] = seen.transpose(2, 0, 1)
    return Placed(pixels, (height, width), scale, (image.shape[0], image.shape[1]))


def boxes_in_image(boxes_xyxy: NDArray[Any], placed: Placed) -> NDArray[Any]:
    """Return boxes `[..., 4]` of canvas pixels in pixels of the image, clipped to it."""
    height, width = placed.image_hw
    clipped: NDArray[Any] = np.clip(boxes_xyxy / placed.scale, 0, [width, height] * 2)
    return clipped
