"""The steps between the box heads of a cascade (Cai and Vasconcelos 2018): each moves the boxes that the next one looks at."""

from collections.abc import Sequence

import torch
from torch import Tensor

from jdnas.models.assign import IGNORED, match
from jdnas.models.boxes import ROI_WEIGHTS, DeltaWeights, at_least, clip, decode, encode, take
from jdnas.models.roi_head import MIN_SIDE, RoiSample
from jdnas.models.rpn import Proposals
from jdnas.spec import CASCADE_IOUS, Head

# As the boxes come closer to the objects, their deltas shrink and are scaled up: one entry per head.
DELTA_WEIGHTS: tuple[DeltaWeights, ...] = (ROI_WEIGHTS, (20.0, 10.0), (30.0, 15.0))
LOSS_WEIGHTS = (1.0, 0.5, 0.25)


@torch.no_grad()
def refined(proposals: Proposals, box_deltas: Tensor, sizes_hw: Tensor, stage: int) -> Proposals:
    """Return the proposals that head `stage` + 1 looks at: those of `stage`, moved by its deltas `[B, R, 1, 4]` and clipped."""
    boxes = clip(decode(box_deltas.squeeze(2), proposals.boxes_xyxy, DELTA_WEIGHTS[stage]), sizes_hw)
    return Proposals(boxes.where(proposals.valid[..., None], 0.0), proposals.valid)


@torch.no_grad()
def relabelled(proposals: Proposals, truth_xyxy: Tensor, truth_labels: Tensor, truth_valid: Tensor, stage: int) -> RoiSample:
    """Return what the losses of head `stage` compare with: all its proposals, positive from this head's overlap on.

    As in detectron2, nothing is drawn anew; boxes that have become empty do not count.
    """
    boxes, iou = proposals.boxes_xyxy, CASCADE_IOUS[stage]
    valid = proposals.valid & at_least(boxes, MIN_SIDE)
    index, side = match(boxes, truth_xyxy, truth_valid, foreground_iou=iou, background_iou=iou, rescue=False)
    labels = torch.where(side > 0, truth_labels.gather(1, index), side).where(valid, IGNORED)
    return RoiSample(Proposals(boxes, valid), labels, encode(take(truth_xyxy, index), boxes, DELTA_WEIGHTS[stage]))


def mean_scores(logits: Sequence[Tensor], head: Head) -> Tensor:
    """Return class probabilities `[B, R, K+1]` of the logits of all heads."""
    if head.cascade_mean == "logits":
        return torch.stack([level.float() for level in logits]).mean(0).softmax(-1)
    return torch.stack([level.float().softmax(-1) for level in logits]).mean(0)
