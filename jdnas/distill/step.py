"""The distillation terms of one training step: the teacher's heads on the student's proposals."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from jdnas.distill.losses import RoiOutputs, classification_loss, feature_loss, localization_loss
from jdnas.distill.settings import DistillSettings
from jdnas.models.detector import LossOutput

TeacherOnRois = Callable[[Tensor], RoiOutputs]


def roi_outputs(call: Callable[..., Any], pyramid: Sequence[Tensor], boxes_xyxy: Tensor) -> RoiOutputs:
    """Run a detector's RoI path on given boxes `[B, R, 4]`; `call(method, *args)` calls a method of that detector."""
    features: Tensor = call("roi_features", pyramid, boxes_xyxy)
    logits, deltas = call("box_head", features)
    return RoiOutputs(features.flatten(0, 1), logits.flatten(0, 1), deltas.flatten(0, 1))


def distill_terms(student: LossOutput, teacher_on: TeacherOnRois, adapter: Tensor, settings: DistillSettings) -> dict[str, Tensor]:
    """Return the weighted terms of section 3.2 for the student's sampled RoIs.

    `teacher_on(boxes)` runs the teacher on `[B, R, 4]` boxes; `adapter` is f_adapt `[C_t, C_s, 1, 1]`. Terms with weight 0 are left out.
    """
    labels = student.labels.flatten()
    with torch.no_grad():
        teacher = teacher_on(student.proposals.boxes_xyxy.detach())
    terms: dict[str, Tensor] = {}
    if settings.feature:
        features = student.roi_features.flatten(0, 1)
        loss = feature_loss(features, teacher.features, labels > 0, adapter, normalize=settings.normalize_features)
        terms["distill_feature"] = settings.feature * loss
    if settings.classification:
        logits = student.class_logits.flatten(0, 1)
        terms["distill_class"] = settings.classification * classification_loss(logits, teacher.class_logits, labels >= 0)
    if settings.localization:
        deltas = student.box_deltas.flatten(0, 1)
        loss = localization_loss(deltas, teacher.box_deltas, teacher.class_logits, labels >= 0)
        terms["distill_box"] = settings.localization * loss
    return terms
