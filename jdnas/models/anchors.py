"""Anchors: a function of map shapes and canvas, laid over the whole padded canvas as torchvision does."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jdnas.spec import Head

Shapes = tuple[tuple[int, int], ...]


def base_anchors(
    size: float, ratios: Sequence[float], scales: Sequence[float] = (1.0,), *, rounding: bool = True
) -> npt.NDArray[np.float32]:
    """Return the boxes `[len(ratios) * len(scales), 4]` of area (`size` x scale) squared around the origin; ratio = height / width.

    All scales of a ratio stand together. `rounding` to whole pixels as in torchvision, or exact as in detectron2 and mmdetection.
    """
    sides = np.asarray(scales, dtype=np.float32) * np.float32(size)
    roots: npt.NDArray[np.float32] = np.sqrt(np.asarray(ratios, dtype=np.float32))[:, None]
    half = np.stack(((1 / roots * sides).ravel(), (roots * sides).ravel()), 1) / 2
    boxes = np.concatenate((-half, half), 1)
    return (boxes.round() if rounding else boxes).astype(np.float32)


@lru_cache(maxsize=64)
def _anchors(maps_hw: Shapes, canvas_hw: tuple[int, int], head: Head) -> npt.NDArray[np.float32]:
    levels = []
    for (height, width), size, stride in zip(maps_hw, head.anchor_sizes, head.strides, strict=True):
        down, across = canvas_hw[0] // height, canvas_hw[1] // width
        if not head.round_anchors:  # maps of canvases that their stride does not divide are larger by a part of a pixel
            down = across = stride
        y, x = np.meshgrid((np.arange(height) + head.anchor_offset) * down, (np.arange(width) + head.anchor_offset) * across, indexing="ij")
        centers = np.stack((x, y, x, y), -1).astype(np.float32)
        boxes = base_anchors(size, head.anchor_ratios, head.anchor_scales, rounding=head.round_anchors)
        levels.append((centers[:, :, None] + boxes).reshape(-1, 4))
    return np.concatenate(levels)


def pyramid_anchors(maps_hw: Shapes, canvas_hw: tuple[int, int], head: Head, *, device: torch.device) -> Tensor:
    """Return the anchors `[N, 4]` of all maps in the order level, row, column, ratio, scale; do not write into them."""
    return torch.from_numpy(_anchors(maps_hw, canvas_hw, head)).to(device)


def anchors_of_maps(maps_hw: Shapes, head: Head, *, device: torch.device) -> Tensor:
    """Return the anchors `[N, 4]` of the maps of a canvas that the first level's stride divides."""
    height, width = maps_hw[0]
    return pyramid_anchors(maps_hw, (height * head.strides[0], width * head.strides[0]), head, device=device)
