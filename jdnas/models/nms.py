"""Non-maximum suppression and top-k selection, each in an eager form and in a form with static shapes that gives the same result."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, nms

from jdnas.models.boxes import pairwise_iou, take

NmsForm = Literal["greedy", "fixed_point"]
TopkForm = Literal["direct", "blockwise"]
MIN_BLOCK = 4


def nms_keep(boxes_xyxy: Tensor, valid: Tensor, iou: float, form: NmsForm, *, groups: Tensor | None = None, iterations: int = 16) -> Tensor:
    """Tell which boxes survive suppression by higher-ranked ones that overlap them by more than `iou`.

    `boxes_xyxy` `[..., N, 4]` in the order of falling scores; `valid` `[..., N]`: the others neither survive nor suppress. Boxes of
    different `groups` `[..., N]` leave each other alone. "greedy" runs the torchvision operator on each leading index; "fixed_point"
    has static shapes and equals it after enough `iterations` (once one more changes nothing, no further one does).
    """
    if form == "greedy":
        return _greedy(boxes_xyxy, valid, iou, groups)
    return _fixed_point(boxes_xyxy, valid, iou, groups, iterations)


def nms_keep_best(boxes_xyxy: Tensor, scores: Tensor, iou: float, count: int) -> Tensor:
    """Tell which boxes `[B, L, N, 4]` survive greedy suppression inside their group `[L]`, as far as the best `count` of an image.

    `scores` `[B, L, N]` fall along N; boxes of score -inf neither survive nor suppress. Only better boxes can suppress a box, so the
    boxes of an image are looked at from the best on, in portions that double, until `count` of them are known to survive: the cost of
    suppression is quadratic, and the long tails of most groups are never reached. The best `count` survivors are exact; whether later
    ones are told is left open.
    """
    keep = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    for image in range(len(scores)):
        valid = scores[image] > -torch.inf
        candidates, portion = int(valid.sum()), 3 * count // 2
        best = scores[image][valid].sort(descending=True).values
        while True:
            seen = valid if portion >= candidates else valid & (scores[image] >= best[portion])
            keep[image] = _greedy(boxes_xyxy[image], seen, iou, None)
            if portion >= candidates or int(keep[image].sum()) >= count:
                break
            portion *= 2
    return keep


def _fixed_point(boxes_xyxy: Tensor, valid: Tensor, iou: float, groups: Tensor | None, iterations: int) -> Tensor:
    overlap = pairwise_iou(boxes_xyxy, boxes_xyxy) > iou
    if groups is not None:
        overlap = overlap & (groups.unsqueeze(-1) == groups.unsqueeze(-2))
    suppresses = overlap.to(torch.float32).triu(1)  # [..., N, N]: 1 where the row's box ranks higher and overlaps the column's
    candidate = valid.to(torch.float32).unsqueeze(-2)
    keep = candidate
    for _ in range(iterations):
        # With entries 0 and 1 the product is 0 in every precision exactly where no kept box suppresses.
        keep = F.relu(candidate - keep @ suppresses)
    return keep.squeeze(-2) > 0.5


def _greedy(boxes_xyxy: Tensor, valid: Tensor, iou: float, groups: Tensor | None) -> Tensor:
    keep = torch.zeros(valid.shape, dtype=torch.bool, device=valid.device)
    count = boxes_xyxy.shape[-2]
    rank = torch.arange(count, 0, -1, dtype=torch.float32, device=valid.device)
    flat_boxes, flat_valid, flat_keep = boxes_xyxy.float().reshape(-1, count, 4), valid.reshape(-1, count), keep.view(-1, count)
    flat_groups = None if groups is None else groups.expand(valid.shape).reshape(-1, count)
    for row in range(len(flat_boxes)):
        index = flat_valid[row].nonzero().squeeze(1)
        boxes, order = flat_boxes[row, index], rank[: len(index)]
        kept = nms(boxes, order, iou) if flat_groups is None else batched_nms(boxes, order, flat_groups[row, index], iou)
        flat_keep[row, index[kept]] = True
    return keep


def topk(scores: Tensor, k: int, form: TopkForm) -> tuple[Tensor, Tensor]:
    """Return the `min(k, N)` largest of scores `[B, N]` in falling order, and their indices; ties are broken in any order."""
    rows = scores.shape[1]
    k = min(k, rows)
    block = math.isqrt(rows // max(k, 1))
    if form == "direct" or block < MIN_BLOCK:
        return scores.topk(k, dim=1)
    return blockwise_topk(scores, k, block)


def ranked(scores: Tensor, k: int, form: TopkForm) -> tuple[Tensor, Tensor]:
    """Return the same as `topk`; in the eager form, equal scores (saturated ones are) also keep their order, as in torchvision."""
    if form == "blockwise":
        return topk(scores, k, form)
    values, index = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k], index[:, :k]


def blockwise_topk(scores: Tensor, k: int, block: int) -> tuple[Tensor, Tensor]:
    """Return the same as `scores.topk(k, dim=1)`, through the maxima of blocks of `block` scores.

    The k largest scores lie in the k blocks with the largest maxima, so two small selections replace a large one.
    """
    batch, rows = scores.shape
    blocks = -(-rows // block)
    if blocks < k:
        return scores.topk(k, dim=1)
    padded = F.pad(scores, (0, blocks * block - rows), value=-torch.inf).reshape(batch, blocks, block)
    winners = padded.amax(dim=2).topk(k, dim=1).indices
    values, position = take(padded, winners).flatten(1).topk(k, dim=1)
    index = winners.gather(1, position // block) * block + position % block
    return values, index.clamp(max=rows - 1)
