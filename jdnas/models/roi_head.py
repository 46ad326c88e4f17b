"""The box head (Girshick 2015): classification and per-class box regression of pooled RoIs."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jdnas.models.assign import IGNORED, match, sample_balanced
from jdnas.models.axes import Axis
from jdnas.models.boxes import ROI_WEIGHTS, DeltaWeights, at_least, clip, decode, encode, take
from jdnas.models.forms import Forms
from jdnas.models.fpn import NORM_EPS
from jdnas.models.layers import Conv, ConvNorm, Linear, init_conv_weights
from jdnas.models.nms import nms_keep, ranked
from jdnas.models.rpn import Proposals
from jdnas.spec import ROI_SIZE, Head

MATCH_IOU, POSITIVE_FRACTION = 0.5, 0.25
MIN_SIDE = 1e-2


class Detections(NamedTuple):
    """Detections in falling order of scores, D per image; entries at and after `count` are zero.

    `boxes_xyxy` `[B, D, 4]` in canvas pixels, `scores` `[B, D]`, `labels` `[B, D]` int64 in 1..K, `count` `[B]` int64.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    count: Tensor  # type: ignore[assignment]  # shadows tuple.count


class RoiSample(NamedTuple):
    """RoIs that the losses look at: `proposals`, `labels` `[B, R]` (0 background, -1 padding) and regression `targets` `[B, R, 4]`."""

    proposals: Proposals
    labels: Tensor
    targets: Tensor


class BoxHead(nn.Module):
    """3x3 convolutions, if the spec has any, one or two fully connected layers, and two predictors; `name` is that of its axes."""

    def __init__(self, neck: Axis, head: Head, num_classes: int, *, name: str = "head") -> None:
        super().__init__()
        reads, self.convs = neck, nn.ModuleList()
        for index, width in enumerate(head.convs):
            writes = Axis(f"{name}.conv{index}", width)
            self.convs.append(ConvNorm(Conv(reads, writes, 3), eps=NORM_EPS))
            reads = writes
        init_conv_weights(self.convs)
        axis = Axis(f"{name}.fc6", head.width)
        self.fc6, self.fc7 = Linear(reads.flattened(ROI_SIZE**2), axis), None
        if head.fcs == 2:
            reads, axis = axis, Axis(f"{name}.fc7", head.width)
            self.fc7 = Linear(reads, axis)
        self.class_logits = Linear(axis, Axis("class_logits", num_classes + 1))
        self.box_deltas = Linear(axis, Axis("class_deltas", 4 * head.box_outputs(num_classes)))

    def forward(self, roi_features: Tensor) -> tuple[Tensor, Tensor]:
        """Map `[B, R, neck, 7, 7]` to class logits `[B, R, K+1]` and box deltas `[B, R, K+1 or 1, 4]`."""
        x = roi_features
        if len(self.convs):
            x = x.flatten(0, 1)
            for conv in self.convs:
                x = conv(x)
            x = x.reshape(*roi_features.shape[:2], *x.shape[1:])
        x = F.relu(self.fc6(x.flatten(2)))
        x = x if self.fc7 is None else F.relu(self.fc7(x))
        return self.class_logits(x), self.box_deltas(x).unflatten(-1, (-1, 4))


@torch.no_grad()
def sample_rois(
    proposals: Proposals, truth_xyxy: Tensor, truth_labels: Tensor, truth_valid: Tensor, noise: Tensor, *, size: int
) -> RoiSample:
    """Draw at most `size` RoIs per image from its proposals and its ground truth, a quarter of them positive where there are enough.

    `noise` `[B, P + G]` uniform in [0, 1) decides which.
    """
    boxes = torch.cat((proposals.boxes_xyxy, truth_xyxy.float()), 1)
    valid = torch.cat((proposals.valid, truth_valid), 1)
    index, side = match(boxes, truth_xyxy, truth_valid, foreground_iou=MATCH_IOU, background_iou=MATCH_IOU, rescue=False)
    side = side.where(valid, IGNORED)
    sample, sampled = sample_balanced(side, noise, size=size, positive_fraction=POSITIVE_FRACTION)
    boxes, index, side = take(boxes, sample), index.gather(1, sample), side.gather(1, sample)
    labels = torch.where(side > 0, truth_labels.gather(1, index), side).where(sampled, IGNORED)
    targets = encode(take(truth_xyxy, index), boxes, ROI_WEIGHTS)
    return RoiSample(Proposals(boxes.where(sampled[..., None], 0.0), sampled), labels, targets)


def detect(
    probabilities: Tensor, box_deltas: Tensor, proposals: Proposals, sizes_hw: Tensor, head: Head, forms: Forms,
    weights: DeltaWeights = ROI_WEIGHTS,
) -> Detections:  # fmt: skip
    """Turn class probabilities `[B, R, K+1]` and deltas `[B, R, K+1 or 1, 4]` of `proposals` into the final detections.

    That is: threshold, per-class suppression, the best D. `weights` are those that the deltas were scaled with.
    """
    classes = probabilities.shape[-1] - 1
    scores = probabilities[..., 1:]
    scores = scores.where((scores > head.score_threshold) & proposals.valid[..., None], -1.0).flatten(1)
    limit = forms.detection_candidates if forms.nms == "fixed_point" else max(1, int((scores >= 0).sum(1).max()))
    scores, index = ranked(scores, limit, forms.topk)

    roi, label = index // classes, index % classes + 1
    deltas = take(box_deltas.flatten(1, 2), roi if box_deltas.shape[2] == 1 else roi * (classes + 1) + label)
    boxes = clip(decode(deltas, take(proposals.boxes_xyxy, roi), weights), sizes_hw)
    usable = (scores >= 0) & at_least(boxes, MIN_SIDE)
    keep = nms_keep(boxes, usable, head.nms_iou, forms.nms, groups=label, iterations=forms.nms_iterations)

    best, order = ranked(scores.where(keep, -1.0), head.detections, forms.topk)
    found = best >= 0
    missing = head.detections - best.shape[1]
    return Detections(
        F.pad(take(boxes, order).where(found[..., None], 0.0), (0, 0, 0, missing)),
        F.pad(best.where(found, 0.0), (0, missing)),
        F.pad(label.gather(1, order).where(found, 0), (0, missing)),
        found.sum(1),
    )
