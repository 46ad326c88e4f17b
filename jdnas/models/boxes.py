"""Box arithmetic on `xyxy` pixel boxes; everything is computed in float32, whatever the network runs in."""

import math

import torch
from torch import Tensor

DeltaWeights = tuple[float, float]  # of the shift of the center, and of the logarithm of the scale
RPN_WEIGHTS: DeltaWeights = (1.0, 1.0)
ROI_WEIGHTS: DeltaWeights = (10.0, 5.0)
MAX_LOG_SCALE = math.log(1000.0 / 16)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Pick rows per image: `[B, N, ...]` and `[B, K]` int64 give `[B, K, ...]`; indices outside 0..N-1 are clamped."""
    batch, rows = values.shape[:2]
    index = index.clamp(0, rows - 1)
    if batch > 1:
        index = index + torch.arange(0, batch * rows, rows, device=index.device)[:, None]
    picked = values.reshape(batch * rows, *values.shape[2:]).index_select(0, index.reshape(-1))
    return picked.reshape(*index.shape, *values.shape[2:])


def area(boxes_xyxy: Tensor) -> Tensor:
    """Return the areas `[...]` of boxes `[..., 4]` in square pixels."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the intersection over union `[..., N, M]` of boxes `[..., N, 4]` and `[..., M, 4]`; two empty boxes give NaN."""
    a_left, a_top, a_right, a_bottom = torch.split(first.float(), 1, -1)  # [..., N, 1]
    b_left, b_top, b_right, b_bottom = torch.split(second.float().transpose(-1, -2), 1, -2)  # [..., 1, M]
    width = (torch.minimum(a_right, b_right) - torch.maximum(a_left, b_left)).clamp(min=0)
    height = (torch.minimum(a_bottom, b_bottom) - torch.maximum(a_top, b_top)).clamp(min=0)
    intersection = width * height
    both = (a_right - a_left) * (a_bottom - a_top) + (b_right - b_left) * (b_bottom - b_top)
    return intersection / (both - intersection)


def clip(boxes_xyxy: Tensor, sizes_hw: Tensor) -> Tensor:
    """Clip boxes `[B, N, 4]` to their images, whose `(height, width)` are `sizes_hw` `[B, 2]`."""
    height, width = torch.split(sizes_hw.to(boxes_xyxy.dtype), 1, 1)
    limit = torch.cat((width, height, width, height), 1)[:, None]
    return torch.minimum(boxes_xyxy.clamp(min=0), limit)


def at_least(boxes_xyxy: Tensor, side: float) -> Tensor:
    """Tell which boxes `[..., 4]` have both sides of `side` pixels or more; false for non-finite boxes."""
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2] >= side).all(-1)


def _centers_and_sides(boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    boxes_xyxy = boxes_xyxy.float()
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return boxes_xyxy[..., :2] + 0.5 * sides, sides


def decode(deltas: Tensor, boxes_xyxy: Tensor, weights: DeltaWeights) -> Tensor:
    """Move boxes `[..., 4]` by regression output `[..., 4]`; growth is limited to a factor 62.5 per side."""
    deltas = deltas.float()
    centers, sides = _centers_and_sides(boxes_xyxy)
    centers = deltas[..., :2] / weights[0] * sides + centers
    half = 0.5 * (torch.exp((deltas[..., 2:] / weights[1]).clamp(max=MAX_LOG_SCALE)) * sides)
    return torch.cat((centers - half, centers + half), -1)


def encode(targets_xyxy: Tensor, boxes_xyxy: Tensor, weights: DeltaWeights) -> Tensor:
    """Return the deltas `[..., 4]` that `decode` turns from `boxes_xyxy` into `targets_xyxy`; non-finite for empty boxes."""
    target_centers, target_sides = _centers_and_sides(targets_xyxy)
    centers, sides = _centers_and_sides(boxes_xyxy)
    return torch.cat((weights[0] * (target_centers - centers) / sides, weights[1] * torch.log(target_sides / sides)), -1)
