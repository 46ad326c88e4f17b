"""Region proposal network (Ren et al. 2015, section 3.1) as a fixed-shape, batched program."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jdnas.models.anchors import anchors_of_maps
from jdnas.models.assign import match, sample_balanced
from jdnas.models.axes import Axis
from jdnas.models.boxes import RPN_WEIGHTS, at_least, clip, decode, encode, take
from jdnas.models.forms import Forms
from jdnas.models.layers import Conv
from jdnas.models.losses import rpn_losses
from jdnas.models.nms import nms_keep, nms_keep_best, ranked, topk
from jdnas.spec import Head

FOREGROUND_IOU, BACKGROUND_IOU, POSITIVE_FRACTION = 0.7, 0.3, 0.5
MIN_SIDE = 1e-3


class Proposals(NamedTuple):
    """Boxes that may hold objects: `boxes_xyxy` `[B, R, 4]` in canvas pixels and `valid` `[B, R]`; invalid boxes are zero."""

    boxes_xyxy: Tensor
    valid: Tensor


class RpnOutput(NamedTuple):
    """Predictions for all anchors in the order level, row, column, ratio, scale.

    `objectness` logits `[B, N]`, `deltas` `[B, N, 4]`, `anchors` `[N, 4]`, and the number of anchors of each level.
    """

    objectness: Tensor
    deltas: Tensor
    anchors: Tensor
    per_level: list[int]


class Rpn(nn.Module):
    """3x3 convolutions and two 1x1 predictors shared by all pyramid levels."""

    def __init__(self, neck: Axis, head: Head, forms: Forms) -> None:
        super().__init__()
        self.head, self.forms = head, forms
        hidden = Axis("rpn", head.rpn_width)
        self.conv = Conv(neck, hidden, 3, bias=True)
        self.deeper = nn.ModuleList()
        for depth in range(1, head.rpn_convs):
            reads, hidden = hidden, Axis(f"rpn{depth}", head.rpn_width)
            self.deeper.append(Conv(reads, hidden, 3, bias=True))
        self.objectness = Conv(hidden, Axis("anchors", head.anchors), bias=True)
        self.deltas = Conv(hidden, Axis("anchor_deltas", 4 * head.anchors), bias=True)
        for layer in (self.conv, *self.deeper, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, pyramid: Sequence[Tensor]) -> RpnOutput:
        """Predict objectness and deltas for the anchors of all levels `[B, neck, H_l, W_l]`."""
        objectness, deltas = [], []
        for features in pyramid:
            hidden = F.relu(self.conv(features))
            for conv in self.deeper:
                hidden = F.relu(conv(hidden))
            objectness.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(features), -1, 4))
        maps_hw = tuple((features.shape[2], features.shape[3]) for features in pyramid)
        anchors = anchors_of_maps(maps_hw, self.head, device=pyramid[0].device)
        return RpnOutput(torch.cat(objectness, 1), torch.cat(deltas, 1), anchors, [level.shape[1] for level in objectness])

    def counts(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return how many anchors a canvas has, and how many proposals come of them."""
        height, width = size_hw
        per_level = [self.head.anchors * -(-height // stride) * -(-width // stride) for stride in self.head.strides]
        return sum(per_level), self._proposals(per_level)

    def _limits(self) -> tuple[int, int]:
        head = self.head
        return (head.train_candidates, head.train_proposals) if self.training else (head.candidates, head.proposals)

    def _proposals(self, per_level: list[int]) -> int:
        candidates, count = self._limits()
        return min(count, sum(min(candidates, anchors) for anchors in per_level))

    @torch.no_grad()
    def propose(self, output: RpnOutput, sizes_hw: Tensor) -> Proposals:
        """Turn predictions into the best proposals of each image; `sizes_hw` `[B, 2]` are the true image sizes in the canvas."""
        head, forms = self.head, self.forms
        candidates, _ = self._limits()
        logits, index = _best_per_level(output, candidates, forms)  # [B, L, N]
        flat = index.flatten(1)
        chosen = output.anchors.index_select(0, flat.flatten()).reshape(*flat.shape, 4)
        boxes = clip(decode(take(output.deltas, flat), chosen, RPN_WEIGHTS), sizes_hw)
        scores = torch.sigmoid(logits)
        usable = ((logits > -torch.inf).flatten(1) & at_least(boxes, MIN_SIDE)).reshape(index.shape)
        if head.rpn_score_threshold > 0:
            usable = usable & (scores >= head.rpn_score_threshold)
        boxes = boxes.where(usable.flatten(1)[..., None], 0.0)
        levels = boxes.reshape(*index.shape, 4)
        count = self._proposals(output.per_level)
        if forms.nms == "greedy":
            keep = nms_keep_best(levels, scores.where(usable, -torch.inf), head.rpn_nms_iou, count)
        else:
            keep = nms_keep(levels, usable, head.rpn_nms_iou, forms.nms, iterations=forms.nms_iterations)
        best, order = ranked(scores.where(keep, -1.0).flatten(1), count, forms.topk)
        valid = best >= 0
        return Proposals(take(boxes, order).where(valid[..., None], 0.0), valid)

    def losses(self, output: RpnOutput, truth_xyxy: Tensor, truth_valid: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objectness and box losses for ground truth `[B, G, 4]`, valid `[B, G]`; `noise` `[B, N]` draws anchors."""
        with torch.no_grad():
            index, side = match(
                output.anchors, truth_xyxy, truth_valid, foreground_iou=FOREGROUND_IOU, background_iou=BACKGROUND_IOU, rescue=True
            )
            sample, sampled = sample_balanced(side, noise, size=self.head.anchor_samples, positive_fraction=POSITIVE_FRACTION)
            positive = side.gather(1, sample) > 0
            targets = encode(take(truth_xyxy, index.gather(1, sample)), output.anchors[sample], RPN_WEIGHTS)
        return rpn_losses(output.objectness.gather(1, sample), take(output.deltas, sample), targets, positive, sampled)


def _best_per_level(output: RpnOutput, count: int, forms: Forms) -> tuple[Tensor, Tensor]:
    # The largest logits of each level in falling order and the indices of their anchors, [B, L, N]; short levels end in -inf.
    longest = min(count, max(output.per_level))
    logits, indices, start = [], [], 0
    for scores in torch.split(output.objectness.float(), output.per_level, 1):
        values, index = topk(scores, longest, forms.topk)
        missing = longest - values.shape[1]
        logits.append(F.pad(values, (0, missing), value=-torch.inf))
        indices.append(F.pad(index + start, (0, missing)))
        start += scores.shape[1]
    return torch.stack(logits, 1), torch.stack(indices, 1)
