"""The four losses of Faster R-CNN over masked, fixed-shape samples (Ren et al. 2015, eq. 1); normalized as in torchvision."""

from torch import Tensor
from torch.nn import functional as F

from jdnas.models.boxes import take
from jdnas.models.global_batch import total

BETA = 1 / 9


def _smooth_l1(predicted: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    # Targets of uncounted rows may be non-finite (logarithms of empty boxes): they must not enter the arithmetic at all.
    targets = targets.masked_fill(~counted[..., None], 0.0)
    terms = F.smooth_l1_loss(predicted.float(), targets, beta=BETA, reduction="none")
    return terms.masked_fill(~counted[..., None], 0.0).sum()


def rpn_losses(objectness: Tensor, deltas: Tensor, targets: Tensor, positive: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
    """Return the objectness and box losses over sampled anchors.

    `objectness` logits `[B, S]`; `deltas` and `targets` `[B, S, 4]`; `positive` and `sampled` `[B, S]` bool.
    """
    count = total(sampled.sum()).clamp(min=1)
    terms = F.binary_cross_entropy_with_logits(objectness.float(), positive.float(), reduction="none")
    return terms.masked_fill(~sampled, 0.0).sum() / count, _smooth_l1(deltas, targets, positive & sampled) / count


def roi_losses(class_logits: Tensor, box_deltas: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classification and box losses over sampled RoIs.

    `class_logits` `[B, R, K+1]`; `box_deltas` `[B, R, K+1, 4]`, or `[B, R, 1, 4]` where one serves all classes; `labels` `[B, R]`
    (0 background, -1 not counted); `targets` `[B, R, 4]`.
    """
    counted = labels >= 0
    count = total(counted.sum()).clamp(min=1)
    classifier = F.cross_entropy(class_logits.float().flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="sum")
    # `take` clamps the label to 0 where there is one box for all classes.
    own_class = take(box_deltas.flatten(0, 1), labels.clamp(min=0).reshape(-1, 1)).reshape(*labels.shape, 4)
    return classifier / count, _smooth_l1(own_class, targets, labels > 0) / count
