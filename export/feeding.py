"""Images as an artifact takes them, whatever its input form, and boxes back in their pixels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from export.artifact import ArtifactInfo

if TYPE_CHECKING:  # scaling images takes PyTorch, which running an artifact does not
    from jdnas.data.canvas import Placed

Array = np.ndarray[Any, np.dtype[Any]]
SizeHW = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image for an artifact: `images` `[1, ...]`, the size `sizes_hw` `[1, 2]` that it has there, and its place on the canvas.

    `placed` is None where the graph itself puts the image on the canvas.
    """

    images: Array
    sizes_hw: Array
    placed: "Placed | None"

    def boxes_in_image(self, boxes_xyxy: Array) -> Array:
        """Return the artifact's boxes `[..., 4]` in pixels of the image."""
        if self.placed is None:
            return boxes_xyxy
        from jdnas.data.canvas import boxes_in_image

        moved: Array = boxes_in_image(boxes_xyxy, self.placed)
        return moved


def prepare(info: ArtifactInfo, image: Array) -> Prepared:
    """Put an RGB image `[h, w, 3]` uint8 into the form that an artifact takes."""
    if info.input == "image":
        return Prepared(image[None], np.array([image.shape[:2]], np.int64), None)
    from jdnas.data.canvas import place_bytes, place_on_canvas

    traits = info.spec.traits
    if info.input == "normalized":
        placed = place_on_canvas(image, info.size_hw, traits.mean, traits.std)
        return Prepared(placed.pixels[None], np.array([placed.size_hw], np.int64), placed)
    placed = place_bytes(image, info.size_hw)
    pixels = placed.pixels if info.input == "uint8" else placed.pixels.transpose(1, 2, 0)
    return Prepared(np.ascontiguousarray(pixels)[None], np.array([placed.size_hw], np.int64), placed)


def from_normalized(info: ArtifactInfo, images: Array, sizes_hw: Array) -> Array:
    """Return normalized canvases `[B, 3, H, W]` in an artifact's input form: exact where they were made of bytes.

    For "image", whose canvas is made in the graph, it is the part that the one image covers: at the same scale where it touches an end
    of the canvas, as every letterboxed image does.
    """
    if info.input == "normalized":
        return images
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (info.spec.traits.mean, info.spec.traits.std))
    pixels: Array = np.clip(np.rint((images * std + mean) * 255), 0, 255).astype(np.uint8)
    if info.input == "uint8":
        return pixels
    pixels = pixels.transpose(0, 2, 3, 1)
    if info.input == "image":
        height, width = (int(side) for side in sizes_hw[0])
        pixels = pixels[:, :height, :width]
    return np.ascontiguousarray(pixels)


def noise(info: ArtifactInfo, *, seed: int = 0) -> tuple[Array, Array]:
    """Return a batch of noise that fills the canvas, in an artifact's input form, and its sizes."""
    sizes = np.array([info.size_hw] * info.batch, np.int64)
    images = np.random.default_rng(seed).standard_normal((info.batch, 3, *info.size_hw)).astype(np.float32)
    return from_normalized(info, images, sizes), sizes
