"""Which ground-truth box each anchor or proposal answers for, and which of them the losses look at."""

import torch
from torch import Tensor

from jdnas.models.boxes import pairwise_iou

IGNORED = -1
BACKGROUND = 0
_PAIRS_AT_ONCE = 1 << 24


def match(
    boxes_xyxy: Tensor, truth_xyxy: Tensor, truth_valid: Tensor, *, foreground_iou: float, background_iou: float, rescue: bool
) -> tuple[Tensor, Tensor]:
    """Match boxes to ground truth by overlap (Ren et al. 2015, section 3.1.2).

    `boxes_xyxy` `[N, 4]` (shared by all images) or `[B, N, 4]`; `truth_xyxy` `[B, G, 4]`, `truth_valid` `[B, G]`, G at least 1.
    Gives the index of the best ground truth `[B, N]`, and `[B, N]`: 1 where the box answers for it, BACKGROUND, or IGNORED between the two
    thresholds. `rescue` also takes the boxes that overlap a ground truth most, however little.
    """
    batch, count = truth_valid.shape
    images = max(1, _PAIRS_AT_ONCE // (boxes_xyxy.shape[-2] * count))
    parts = []
    for start in range(0, batch, images):
        part = slice(start, start + images)
        boxes = boxes_xyxy if boxes_xyxy.dim() == 2 else boxes_xyxy[part]
        parts.append(_match(boxes, truth_xyxy[part], truth_valid[part], foreground_iou, background_iou, rescue))
    if len(parts) == 1:
        return parts[0]
    return torch.cat([index for index, _ in parts]), torch.cat([side for _, side in parts])


def _match(
    boxes_xyxy: Tensor, truth_xyxy: Tensor, truth_valid: Tensor, foreground_iou: float, background_iou: float, rescue: bool
) -> tuple[Tensor, Tensor]:
    # Thousands of objects in one image: its boxes in parts, so that memory stays bounded. Then the largest overlap of each ground truth
    # has to be known before the parts are matched.
    parts = torch.split(boxes_xyxy, max(1, _PAIRS_AT_ONCE // truth_valid.shape[1]), -2)
    top = None
    if rescue and len(parts) > 1:
        top = torch.stack([_overlap(part, truth_xyxy, truth_valid).amax(dim=2, keepdim=True) for part in parts]).amax(0)
    found = []
    for part in parts:
        iou = _overlap(part, truth_xyxy, truth_valid)
        best, index = iou.max(dim=1)
        side = torch.full_like(index, IGNORED)
        side.masked_fill_(best < background_iou, BACKGROUND)
        positive = best >= foreground_iou
        if rescue:
            # A ground truth that touches no box would otherwise claim all boxes that it does not touch.
            largest = iou.amax(dim=2, keepdim=True) if top is None else top
            positive |= ((iou == largest) & (largest > 0)).any(dim=1)
        found.append((index, side.masked_fill_(positive, 1)))
    if len(found) == 1:
        return found[0]
    return torch.cat([index for index, _ in found], 1), torch.cat([side for _, side in found], 1)


def _overlap(boxes_xyxy: Tensor, truth_xyxy: Tensor, truth_valid: Tensor) -> Tensor:
    return pairwise_iou(truth_xyxy, boxes_xyxy).masked_fill_(~truth_valid[..., None], -1.0)  # [B, G, N]


def sample_balanced(labels: Tensor, noise: Tensor, *, size: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw up to `size` boxes per image, of which at most `positive_fraction` are positive.

    `labels` `[B, N]`: above 0 positive, BACKGROUND, or IGNORED; `noise` `[B, N]` uniform in [0, 1) decides the draw. Gives indices and
    validity `[B, min(size, N)]`; positives come first, then negatives, then padding.
    """
    rows = labels.shape[1]
    most, size = min(int(size * positive_fraction), rows), min(size, rows)
    positive_noise, positive_index = torch.where(labels > 0, noise, -1.0).topk(most, dim=1)
    negative_noise, negative_index = torch.where(labels == BACKGROUND, noise, -1.0).topk(size, dim=1)
    # All drawn positives rank above all negatives, so the negatives fill whatever the positives leave of the sample.
    rank = torch.cat((torch.where(positive_noise >= 0, positive_noise + 2.0, -1.0), negative_noise), dim=1)
    rank, position = rank.topk(size, dim=1)
    return torch.cat((positive_index, negative_index), dim=1).gather(1, position), rank >= 0
