"""Multi-level RoIAlign (He et al. 2017); by default equal to torchvision's MultiScaleRoIAlign with two samples per bin and direction."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from jdnas.models.boxes import area
from jdnas.models.weighted_rows import summed_bags, summed_products
from jdnas.spec import ROI_SIZE

RoiForm = Literal["eager", "levels", "bags", "gather", "atlas"]
SAMPLES = 2
STRIDES = (4, 8, 16, 32)
_CANONICAL_SIDE, _CANONICAL_LEVEL, _EPS = 224, 4, 1e-6


def level_index(boxes_xyxy: Tensor, strides: Sequence[int] = STRIDES) -> Tensor:
    """Return which of the maps of `strides` each box `[..., 4]` is pooled from (Lin et al. 2017, eq. 1).

    Levels are counted in powers of two from the first stride on, as in torchvision, also where a stride stands twice.
    """
    lowest, highest = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
    side = torch.sqrt(area(boxes_xyxy.float()))
    level = torch.floor(_CANONICAL_LEVEL + torch.log2(side / _CANONICAL_SIDE) + _EPS).clamp(lowest, highest)
    return (level.to(torch.int64) - lowest).clamp(0, highest - lowest)


def pool_rois(
    pyramid: Sequence[Tensor], boxes_xyxy: Tensor, form: RoiForm, *, strides: Sequence[int] = STRIDES, sampling: int = SAMPLES,
    aligned: bool = False, limit: int = 8, values_at_once: int | None = None,
) -> Tensor:  # fmt: skip
    """Pool boxes `[B, R, 4]` (canvas pixels) from the maps of `strides` into `[B, R, C, 7, 7]`; maps beyond those are not used.

    "levels" runs torchvision's operator per level, "bags" PyTorch's embedding bags, which are several times faster on a CPU, "gather"
    standard operators with static shapes, "atlas" one RoiAlign operator for all levels with static shapes; "eager" is the fastest of the
    first two for the device. All give the same result for boxes within the canvas.
    `sampling` and `aligned` are `roi_sampling` and `roi_aligned` of `jdnas.spec.Head`. With `sampling` 0 the form "gather" takes at most
    `limit` samples per bin and direction, and `values_at_once` values before they are summed.
    """
    maps = list(pyramid[: len(strides)])
    if form == "eager":
        form = "bags" if maps[0].device.type == "cpu" and sampling else "levels"
    if form == "atlas":
        return _by_atlas(maps, boxes_xyxy, strides, sampling, aligned)
    if form == "levels":
        return _by_level(maps, boxes_xyxy, strides, sampling, aligned)
    summed = summed_bags if form == "bags" else partial(summed_products, values_at_once=values_at_once)
    return _by_reads(maps, boxes_xyxy, strides, sampling or -limit, aligned, summed)


def _by_level(maps: list[Tensor], boxes_xyxy: Tensor, strides: Sequence[int], sampling: int, aligned: bool) -> Tensor:
    batch, count = boxes_xyxy.shape[:2]
    levels = level_index(boxes_xyxy, strides).flatten()
    image = torch.arange(batch, device=boxes_xyxy.device, dtype=torch.float32).repeat_interleave(count)
    rois = torch.cat((image[:, None], boxes_xyxy.float().reshape(-1, 4)), 1)
    order, pooled = [], []
    for level, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        index = (levels == level).nonzero().squeeze(1)
        # The operator knows no bfloat16, and half would round the boxes.
        part = roi_align(features.float(), rois[index], ROI_SIZE, 1 / stride, sampling, aligned)
        order.append(index)
        pooled.append(part.to(features.dtype))
    result = torch.cat(pooled).index_select(0, torch.cat(order).argsort())
    return result.reshape(batch, count, *result.shape[1:])


def _by_atlas(maps: list[Tensor], boxes_xyxy: Tensor, strides: Sequence[int], sampling: int, aligned: bool) -> Tensor:
    # One operator for all levels: the maps lie side by side in one, and boxes are moved to where theirs lies.
    batch, count = boxes_xyxy.shape[:2]
    atlas, lefts, tops = _atlas(maps)
    level = level_index(boxes_xyxy, strides)
    size = torch.stack([_per_level([features.shape[dim] for features in maps], level) for dim in (3, 2)], -1).float()  # [B, R, 2]
    corner = torch.stack([_per_level(values, level) for values in (lefts, tops)], -1).float()
    scaled = boxes_xyxy.float() * _per_level([1 / stride for stride in strides], level)[..., None]  # pixels of the box's map
    scaled = torch.minimum(scaled.where(scaled >= 0, 0.0), torch.cat((size, size), -1))  # also non-finite boxes: no read goes astray
    image = torch.arange(batch, device=boxes_xyxy.device, dtype=torch.float32)[:, None, None].expand(batch, count, 1)
    rois = torch.cat((image, scaled + torch.cat((corner, corner), -1)), -1).reshape(-1, 5)
    pooled = roi_align(atlas.float(), rois, ROI_SIZE, 1.0, sampling, aligned).reshape(batch, count, -1, ROI_SIZE, ROI_SIZE)
    if not aligned:
        columns, rows = (_share_inside(scaled[..., dim::2], size[..., dim], sampling or 1) for dim in (0, 1))
        pooled = pooled * (rows[..., :, None] * columns[..., None, :])[:, :, None]
    result: Tensor = pooled.to(maps[0].dtype)
    return result


def _atlas(maps: Sequence[Tensor]) -> tuple[Tensor, list[int], list[int]]:
    # The first map on top, the others in a row below; and the corner of each. Edges are repeated as far as samples may reach over them: a
    # pixel before (aligned boxes begin half a pixel further out), and two after, since boxes are one pixel long at least.
    padded = [F.pad(features, (1, 2, 1, 2), mode="replicate") for features in maps]
    heights, widths = ([features.shape[dim] for features in padded] for dim in (2, 3))
    below, tall = sum(widths[1:]), max(heights[1:], default=0)
    wide = max(widths[0], below)
    parts = [F.pad(padded[0], (0, wide - widths[0], 0, 0))]
    if below:
        row = torch.cat([F.pad(features, (0, 0, 0, tall - features.shape[2])) for features in padded[1:]], 3)
        parts.append(F.pad(row, (0, wide - below, 0, 0)))
    lefts = [1, *(1 + sum(widths[1:index]) for index in range(1, len(maps)))]
    return torch.cat(parts, 2), lefts, [1, *(1 + heights[0] for _ in maps[1:])]


def _share_inside(edges: Tensor, size: Tensor, samples: int) -> Tensor:
    # edges [B, R, 2] in map pixels, size [B, R] -> [B, R, 7]: which share of a bin's samples the operator would have found within the map.
    # Only boxes thinner than a pixel are stretched past its end. What they read there is the repeated edge, as is what the bin's other
    # samples read, so that the share is all that is missing.
    low, length = edges[..., :1], (edges[..., 1:] - edges[..., :1]).clamp(min=1.0)
    step = torch.arange(ROI_SIZE * samples, device=edges.device, dtype=torch.float32)
    position = low + (step + 0.5) * (length / (ROI_SIZE * samples))
    inside = (position <= size[..., None]).to(position.dtype)
    return inside.reshape(*size.shape, ROI_SIZE, samples).mean(-1)


def _by_reads(
    maps: list[Tensor], boxes_xyxy: Tensor, strides: Sequence[int], sampling: int, aligned: bool, summed: Callable[..., Tensor]
) -> Tensor:
    batch, count = boxes_xyxy.shape[:2]
    # One row per pixel, so that every sample reads contiguous memory.
    rows = torch.cat([features.flatten(2).transpose(1, 2) for features in maps], 1)
    pixels, channels = rows.shape[1:]
    heights = [features.shape[2] for features in maps]
    widths = [features.shape[3] for features in maps]
    starts = [sum(h * w for h, w in zip(heights[:i], widths[:i], strict=True)) for i in range(len(maps))]
    level = level_index(boxes_xyxy, strides)
    height, width, start = (_per_level(values, level) for values in (heights, widths, starts))
    scale = _per_level([1 / stride for stride in strides], level)[..., None]
    y, y_weight = _axis_samples(boxes_xyxy[..., 1::2] * scale, height, sampling, aligned)
    x, x_weight = _axis_samples(boxes_xyxy[..., 0::2] * scale, width, sampling, aligned)
    # [B, R, 7, 7, 2S, 2S]: bins, then the pixels that the S x S samples of a bin read.
    index = start[..., None, None, None, None] + (y * width[..., None, None])[..., :, None, :, None] + x[..., None, :, None, :]
    weight = y_weight[..., :, None, :, None] * x_weight[..., None, :, None, :]
    index = index.clamp(0, pixels - 1) + torch.arange(0, batch * pixels, pixels, device=rows.device).reshape(-1, 1, 1, 1, 1, 1)
    reads = (2 * abs(sampling)) ** 2
    pooled = summed(rows.flatten(0, 1), index.reshape(-1, reads), weight.reshape(-1, reads))
    return pooled.reshape(batch, count, ROI_SIZE, ROI_SIZE, channels).permute(0, 1, 4, 2, 3)


def _per_level(values: Sequence[float], level: Tensor) -> Tensor:
    return torch.tensor(values, device=level.device).index_select(0, level.flatten()).reshape(level.shape)


def _axis_samples(edges: Tensor, size: Tensor, sampling: int, aligned: bool) -> tuple[Tensor, Tensor]:
    # edges [B, R, 2] in map pixels, size [B, R] -> pixel indices and weights [B, R, 7, 2S]: S samples of a bin x 2 neighbours. A positive
    # `sampling` is S; a negative one is -S, the most samples of bins that take as many as they have pixels.
    low, length = edges[..., :1, None], edges[..., 1:] - edges[..., :1]
    if aligned:
        low = low - 0.5
    else:
        length = length.clamp(min=1.0)
    bins = torch.arange(ROI_SIZE, device=edges.device, dtype=torch.float32)
    place = torch.arange(abs(sampling), device=edges.device, dtype=torch.float32)
    side = (length / ROI_SIZE)[..., None]
    count = torch.ceil(side).clamp(0, -sampling) if sampling < 0 else None  # [B, R, 1, 1]; none for RoIs without extent
    divisor = float(sampling) if count is None else count.clamp(min=1.0)
    position = (low + bins[:, None] * side + (place + 0.5) * side / divisor).flatten(-2)  # in torchvision's order of rounding
    limit = size[..., None]
    inside = (position >= -1.0) & (position <= limit)
    if count is not None:
        inside = inside & (place < count).expand(*size.shape, ROI_SIZE, len(place)).flatten(-2)
    position = torch.minimum(position.clamp(min=0.0), (limit - 1).to(position.dtype))
    first = position.to(torch.int64).clamp(min=0)
    first = torch.minimum(first, limit - 1)
    second = torch.minimum(first + 1, limit - 1)
    fraction = position - first
    weights = torch.stack((1 - fraction, fraction), -1).where(inside[..., None], 0.0) / divisor
    shape = (*size.shape, ROI_SIZE, 2 * len(place))
    return torch.stack((first, second), -1).reshape(shape), weights.reshape(shape)
