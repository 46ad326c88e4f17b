"""The teacher's side of a step: without gradient, in half precision on a GPU, on the student's batch and proposals."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jdnas.distill.inputs import renormalized
from jdnas.distill.losses import RoiOutputs
from jdnas.errors import ConfigError
from jdnas.models.detector import Detector
from jdnas.models.layers import Norm
from jdnas.spec import DetectorSpec

SizeHW = tuple[int, int]


def roi_outputs(call: Callable[..., Any], pyramid: Sequence[Tensor], boxes_xyxy: Tensor) -> RoiOutputs:
    """Run a detector's RoI path on given boxes `[B, R, 4]`; `call(method, *args)` calls a method of that detector."""
    features: Tensor = call("roi_features", pyramid, boxes_xyxy)
    logits, deltas = call("box_head", features)
    return RoiOutputs(features.flatten(0, 1), logits.flatten(0, 1), deltas.flatten(0, 1))


@dataclass(frozen=True)
class Lesson:
    """What a teacher offers for one batch: its pyramid with the levels' strides, and its RoI path on boxes `[B, R, 4]`.

    Nothing has a gradient.
    """

    pyramid: Sequence[Tensor]
    strides: tuple[int, ...]
    on_rois: Callable[[Tensor], RoiOutputs]


def check_pair(student: DetectorSpec, teacher: DetectorSpec) -> None:
    """Raise a ConfigError where a teacher cannot teach a student: they must know the same number of classes.

    Any two families go together: each pools RoIs from the levels of its own pyramid, and levels are matched by their strides.
    """
    if student.num_classes != teacher.num_classes:
        raise ConfigError(
            f"the teacher knows {teacher.num_classes} classes and the student {student.num_classes}; train both on the same classes"
        )


class Teacher:
    """A frozen detector for each resolution that the student trains at (the weights may be shared, BN statistics differ).

    `detector_for(size_hw)` gives it in evaluation mode. Batches are normalized as for `student`.
    """

    def __init__(self, spec: DetectorSpec, detector_for: Callable[[SizeHW], Detector], student: DetectorSpec) -> None:
        check_pair(student, spec)
        self.spec, self._detector_for, self._student = spec, detector_for, student
        self._ready: dict[tuple[SizeHW, torch.device], Detector] = {}

    @staticmethod
    def fixed(detector: Detector, student: DetectorSpec) -> "Teacher":
        """Return the teacher that is one detector at every resolution."""
        return Teacher(detector.spec, lambda size_hw: detector, student)

    def _detector(self, images: Tensor) -> Detector:
        size_hw = (images.shape[2], images.shape[3])
        if (size_hw, images.device) not in self._ready:
            detector = self._detector_for(size_hw).to(memory_format=torch.channels_last)
            if images.is_cuda:
                half_precision(detector)
            self._ready[size_hw, images.device] = detector
        return self._ready[size_hw, images.device]

    @torch.no_grad()
    def teach(self, images: Tensor, sizes_hw: Tensor) -> Lesson:
        """Look at normalized images `[B, 3, H, W]` of true sizes `[B, 2]` once and return what there is to learn."""
        detector = self._detector(images)
        with _in_half(images):
            pyramid = detector.features(renormalized(images, sizes_hw, self._student.traits, self.spec.traits))

        @torch.no_grad()
        def on_rois(boxes_xyxy: Tensor) -> RoiOutputs:
            with _in_half(images):
                return roi_outputs(lambda method, *args: getattr(detector, method)(*args), pyramid, boxes_xyxy)

        return Lesson(pyramid, self.spec.head.strides, on_rois)


def _in_half(images: Tensor) -> AbstractContextManager[object]:
    """Return autocast for the teacher on a GPU, whatever precision its student trains in."""
    return torch.autocast("cuda", torch.bfloat16) if images.is_cuda else nullcontext()


def half_precision(detector: Detector) -> Detector:
    """Keep the weights of a frozen detector in bfloat16, in place, so that autocast need not cast them at every step.

    Norms stay in float32. Weights without gradient are not in autocast's cache of casts.
    """
    for module in detector.modules():
        if not isinstance(module, Norm):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16)
    return detector
