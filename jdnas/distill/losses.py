"""Detection distillation losses (Joint-DetNAS, section 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from jdnas.models.global_batch import total
from jdnas.spec import ROI_SIZE


class RoiOutputs(NamedTuple):
    """What a detector says of the same RoIs: features `[N, C, 7, 7]`, class logits `[N, K+1]`, box deltas `[N, K+1, 4]`."""

    features: Tensor
    class_logits: Tensor
    box_deltas: Tensor


def standardize(features: Tensor, counts: Tensor) -> Tensor:
    """Bring every channel of `[N, C, H, W]` to mean 0 and variance 1 over the points where `counts` (bool, broadcastable) is set."""
    weight = counts.to(features.dtype).expand(features.shape[0], 1, *features.shape[2:])
    points = weight.sum().clamp(min=1)
    mean = (features * weight).sum(dim=(0, 2, 3), keepdim=True) / points
    variance = ((features - mean).square() * weight).sum(dim=(0, 2, 3), keepdim=True) / points
    return (features - mean) / (variance + 1e-5).sqrt()


def feature_loss(student: Tensor, teacher: Tensor, positive: Tensor, adapter: Tensor, *, normalize: bool = False) -> Tensor:
    """L_feat of section 3.2.1 on RoI-aligned features.

    `student` `[N, C_s, 7, 7]`, `teacher` `[N, C_t, 7, 7]`, `positive` `[N]` bool (the mask), `adapter` `[C_t, C_s, 1, 1]` is the
    1x1 convolution f_adapt. Squared differences are summed over positive points and channels and divided by N_p, the number of
    positive points (positive RoIs x 49). Every RoI is pooled from one level, so the equation's sum over levels is the one over RoIs.
    0 without positives. `normalize` standardizes both sides first, over the positive points; where several processes hold parts of
    a batch, each over its own, as batch normalization does.
    """
    adapted, target = F.conv2d(student, adapter.to(student.dtype)).float(), teacher.float()
    mask = positive[:, None, None, None]
    if normalize:
        adapted, target = standardize(adapted, mask), standardize(target, mask)
    points = total(positive.sum()).clamp(min=1) * ROI_SIZE**2
    return torch.where(mask, (adapted - target).square(), adapted.new_zeros(())).sum() / points


def classification_loss(student_logits: Tensor, teacher_logits: Tensor, valid: Tensor, *, temperature: float = 1.0) -> Tensor:
    """L_cls of section 3.2.2: soft cross entropy -1/N sum P_t log P_s over valid RoIs; logits `[N, K+1]`, `valid` `[N]` bool.

    With a `temperature` T, both logits are divided by it and the loss is multiplied by T squared (Hinton et al. 2015).
    """
    target = (teacher_logits.float() / temperature).softmax(dim=-1)
    per_roi = -(target * (student_logits.float() / temperature).log_softmax(dim=-1)).sum(dim=-1)
    return temperature**2 * torch.where(valid, per_roi, per_roi.new_zeros(())).sum() / total(valid.sum()).clamp(min=1)


def localization_loss(student_deltas: Tensor, teacher_deltas: Tensor, teacher_logits: Tensor, valid: Tensor) -> Tensor:
    """L_reg of section 3.2.2: class-aware localization, 1/N sum |sum_c p_t^c (reg_t^c - reg_s^c)| over foreground classes.

    Deltas `[N, K+1, 4]` (class 0 is the background and takes no part) or `[N, 1, 4]` where one box serves all classes, `valid` `[N]`
    bool. The four coordinates are added.
    """
    scores = teacher_logits.float().softmax(dim=-1)[:, 1:, None]
    difference = teacher_deltas.float() - student_deltas.float()
    difference = (scores * (difference if difference.shape[1] == 1 else difference[:, 1:])).sum(dim=1)
    per_roi = difference.abs().sum(dim=-1)
    return torch.where(valid, per_roi, per_roi.new_zeros(())).sum() / total(valid.sum()).clamp(min=1)
