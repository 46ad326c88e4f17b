"""Anchors: a function of map shapes and canvas, laid over the whole padded canvas as torchvision does."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Shapes = tuple[tuple[int, int], ...]


def base_anchors(size: float, ratios: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return the boxes `[len(ratios), 4]` of area `size` squared around the origin, rounded to whole pixels; ratio = height / width."""
    roots: npt.NDArray[np.float32] = np.sqrt(np.asarray(ratios, dtype=np.float32))
    half = np.stack((1 / roots * np.float32(size), roots * np.float32(size)), 1) / 2
    return np.concatenate((-half, half), 1).round().astype(np.float32)


@lru_cache(maxsize=64)
def _anchors(maps_hw: Shapes, canvas_hw: tuple[int, int], sizes: tuple[float, ...], ratios: tuple[float, ...]) -> npt.NDArray[np.float32]:
    levels = []
    for (height, width), size in zip(maps_hw, sizes, strict=True):
        y, x = np.meshgrid(np.arange(height) * (canvas_hw[0] // height), np.arange(width) * (canvas_hw[1] // width), indexing="ij")
        centers = np.stack((x, y, x, y), -1).astype(np.float32)
        levels.append((centers[:, :, None] + base_anchors(size, ratios)).reshape(-1, 4))
    return np.concatenate(levels)


def pyramid_anchors(
    maps_hw: Shapes, canvas_hw: tuple[int, int], *, sizes: tuple[float, ...], ratios: tuple[float, ...], device: torch.device
) -> Tensor:
    """Return the anchors `[N, 4]` of all maps in the order level, row, column, ratio; do not write into them."""
    return torch.from_numpy(_anchors(maps_hw, canvas_hw, sizes, ratios)).to(device)
