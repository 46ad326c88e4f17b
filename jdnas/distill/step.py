"""The distillation terms of one training step: the teacher's heads on the student's proposals."""

import math
from collections.abc import Mapping

from torch import Tensor

from jdnas.distill.adapters import FEATURE, IMITATION
from jdnas.distill.imitation import imitation_loss, imitation_masks
from jdnas.distill.losses import classification_loss, feature_loss, localization_loss
from jdnas.distill.settings import DistillSettings
from jdnas.distill.teacher import Lesson
from jdnas.models.detector import LossOutput
from jdnas.models.roi_head import POSITIVE_FRACTION
from jdnas.spec import Head


def distill_terms(student: LossOutput, lesson: Lesson, adapters: Mapping[str, Tensor], settings: DistillSettings) -> dict[str, Tensor]:
    """Return the weighted terms of section 3.2 for the student's sampled RoIs.

    `adapters` holds f_adapt `[C_t, C_s, 1, 1]` under `FEATURE`. Terms with weight 0 are left out.
    """
    if not (settings.feature or settings.classification or settings.localization):
        return {}
    labels = student.labels.flatten()
    teacher = lesson.on_rois(student.proposals.boxes_xyxy.detach())
    terms: dict[str, Tensor] = {}
    if settings.feature:
        rows = positive_rows(labels > 0)
        loss = feature_loss(
            student.roi_features.flatten(0, 1)[rows], teacher.features[rows], labels[rows] > 0, adapters[FEATURE],
            normalize=settings.normalize_features,
        )  # fmt: skip
        terms["distill_feature"] = settings.feature * loss
    if settings.classification:
        logits = student.class_logits.flatten(0, 1)
        loss = classification_loss(logits, teacher.class_logits, labels >= 0, temperature=settings.temperature)
        terms["distill_class"] = settings.classification * loss
    if settings.localization:
        deltas = student.box_deltas.flatten(0, 1)
        loss = localization_loss(deltas, teacher.box_deltas, teacher.class_logits, labels >= 0)
        terms["distill_box"] = settings.localization * loss
    return terms


def positive_rows(positive: Tensor) -> Tensor:
    """Return as many row numbers as a sample can have positive RoIs, those of `positive` `[N]` bool among them.

    The features of the others, three quarters of a sample, need not be looked at.
    """
    most = math.ceil(POSITIVE_FRACTION * len(positive))
    return positive.int().topk(most, sorted=False).indices


def imitation_terms(
    student: LossOutput,
    lesson: Lesson,
    adapters: Mapping[str, Tensor],
    settings: DistillSettings,
    *,
    head: Head,
    truth: tuple[Tensor, Tensor],
) -> dict[str, Tensor]:
    """Return the weighted term of fine-grained feature imitation near ground truth, on the levels that both pyramids have.

    `truth` holds its boxes `[B, G, 4]` and which are valid `[B, G]`; `head`, the student's, lays the anchors.
    """
    if not settings.imitation:
        return {}
    maps_hw = [(level.shape[2], level.shape[3]) for level in student.pyramid]
    masks = imitation_masks(maps_hw, head, *truth)
    places = [(mine, lesson.strides.index(stride)) for mine, stride in enumerate(head.strides) if stride in lesson.strides]
    loss = imitation_loss(
        [student.pyramid[mine] for mine, _ in places], [lesson.pyramid[its] for _, its in places], [masks[mine] for mine, _ in places],
        adapters[IMITATION], normalize=settings.normalize_features,
    )  # fmt: skip
    return {"distill_imitation": settings.imitation * loss}


def warmup_factor(step: int, steps: int, settings: DistillSettings) -> float:
    """Return the factor on all distillation weights at step `step` (from 0) of `steps`: a linear rise, then 1."""
    rise = settings.warmup * steps
    return min(1.0, (step + 1) / rise) if rise >= 1 else 1.0
