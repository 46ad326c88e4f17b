"""Anchors: a function of map shapes and canvas, laid over the whole padded canvas as torchvision does."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Shapes = tuple[tuple[int, int], ...]


def base_anchors(size: float, ratios: Sequence[float], *, rounding: bool = True) -> npt.NDArray[np.float32]:
    """Return the boxes `[len(ratios), 4]` of area `size` squared around the origin, by default in whole pixels; ratio = height / width."""
    roots: npt.NDArray[np.float32] = np.sqrt(np.asarray(ratios, dtype=np.float32))
    half = np.stack((1 / roots * np.float32(size), roots * np.float32(size)), 1) / 2
    boxes = np.concatenate((-half, half), 1)
    return (boxes.round() if rounding else boxes).astype(np.float32)


@lru_cache(maxsize=64)
def _anchors(
    maps_hw: Shapes, canvas_hw: tuple[int, int], sizes: tuple[float, ...], ratios: tuple[float, ...], rounding: bool, offset: float
) -> npt.NDArray[np.float32]:
    levels = []
    for level, ((height, width), size) in enumerate(zip(maps_hw, sizes, strict=True)):
        down, across = canvas_hw[0] // height, canvas_hw[1] // width
        if not rounding:  # maps of canvases that their stride does not divide are larger by a part of a pixel
            down, across = canvas_hw[0] // maps_hw[0][0] << level, canvas_hw[1] // maps_hw[0][1] << level
        y, x = np.meshgrid((np.arange(height) + offset) * down, (np.arange(width) + offset) * across, indexing="ij")
        centers = np.stack((x, y, x, y), -1).astype(np.float32)
        levels.append((centers[:, :, None] + base_anchors(size, ratios, rounding=rounding)).reshape(-1, 4))
    return np.concatenate(levels)


def pyramid_anchors(
    maps_hw: Shapes, canvas_hw: tuple[int, int], *, sizes: tuple[float, ...], ratios: tuple[float, ...], device: torch.device,
    rounding: bool = True, offset: float = 0.0,
) -> Tensor:  # fmt: skip
    """Return the anchors `[N, 4]` of all maps in the order level, row, column, ratio; do not write into them.

    `rounding` and `offset` are `round_anchors` and `anchor_offset` of `jdnas.spec.Head`.
    """
    return torch.from_numpy(_anchors(maps_hw, canvas_hw, sizes, ratios, rounding, offset)).to(device)
