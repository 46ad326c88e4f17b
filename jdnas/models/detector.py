"""Faster R-CNN with FPN (Ren et al. 2015, Lin et al. 2017): the whole detector, built from a spec."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from jdnas.models.axes import Axis
from jdnas.models.backbones import build_backbone
from jdnas.models.cascade import DELTA_WEIGHTS, LOSS_WEIGHTS, mean_scores, refined, relabelled
from jdnas.models.forms import EAGER, EXPORT, Forms
from jdnas.models.fpn import Fpn
from jdnas.models.global_batch import noise
from jdnas.models.losses import roi_losses
from jdnas.models.roi_align import pool_rois
from jdnas.models.roi_head import BoxHead, Detections, detect, sample_rois
from jdnas.models.rpn import Proposals, Rpn, RpnOutput
from jdnas.spec import DetectorSpec

__all__ = ["EAGER", "EXPORT", "Detections", "Detector", "Forms", "LossOutput", "Proposals", "Targets", "build", "call_with", "padded_truth"]


class Targets(Protocol):
    """Padded ground truth: `boxes_xyxy` `[B, G, 4]` canvas pixels, `labels` `[B, G]` int64 in 1..K, `valid` `[B, G]` bool."""

    @property
    def boxes_xyxy(self) -> Tensor:
        """Boxes of all rows."""

    @property
    def labels(self) -> Tensor:
        """Classes of all rows."""

    @property
    def valid(self) -> Tensor:
        """Which rows are objects."""


class LossOutput(NamedTuple):
    """The four loss `terms` (objectness, rpn_box, classifier, box) and what they were computed from.

    `pyramid`; `proposals`: the sampled RoIs `[B, R, 4]`; `labels` `[B, R]` (0 background, -1 padding); `roi_features`
    `[B, R, neck, 7, 7]`; `class_logits` `[B, R, K+1]`; `box_deltas` `[B, R, K+1 or 1, 4]`. In a cascade, `classifier` and `box` are
    weighted sums over its heads, and the rest is what its first head looked at and said.
    """

    terms: dict[str, Tensor]
    pyramid: list[Tensor]
    proposals: Proposals
    labels: Tensor
    roi_features: Tensor
    class_logits: Tensor
    box_deltas: Tensor


class Noise(NamedTuple):
    """Uniform numbers in [0, 1) that decide which boxes the losses look at: `anchors` `[B, N]`, `rois` `[B, P + G]`."""

    anchors: Tensor
    rois: Tensor


class Detector(nn.Module):
    """A two-stage detector; `forms` chooses between implementations that give the same result."""

    def __init__(self, spec: DetectorSpec, forms: Forms = EAGER) -> None:
        super().__init__()
        self.spec, self.forms = spec, forms
        neck = Axis("neck", spec.neck)
        self.backbone = build_backbone(spec, forms.deform)
        self.fpn = Fpn(self.backbone.out_axes, neck, pooled=len(spec.head.strides) - len(spec.taps), norm=spec.neck_norm)
        self.rpn = Rpn(neck, spec.head, forms)
        self.box_head = BoxHead(neck, spec.head, spec.num_classes)
        later = range(spec.head.box_heads - 1)
        self.cascade = nn.ModuleList(BoxHead(neck, spec.head, spec.num_classes, name=f"cascade{index}") for index in later)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the pyramid, each level `[B, neck, H/stride, W/stride]`, of normalized images `[B, 3, H, W]`, sides multiples of 32."""
        pyramid: list[Tensor] = self.fpn(self.backbone(images))
        return pyramid

    def propose(self, pyramid: Sequence[Tensor], sizes_hw: Tensor) -> Proposals:
        """Return the proposals of each image; `sizes_hw` `[B, 2]` are the true image sizes in the canvas."""
        return self.rpn.propose(self.rpn(pyramid), sizes_hw)

    def roi_features(self, pyramid: Sequence[Tensor], boxes_xyxy: Tensor) -> Tensor:
        """Pool boxes `[B, R, 4]` in canvas pixels into `[B, R, neck, 7, 7]`."""
        head, forms = self.spec.head, self.forms
        return pool_rois(
            pyramid, boxes_xyxy, forms.roi, strides=head.read_strides, sampling=head.roi_sampling, aligned=head.roi_aligned,
            limit=forms.roi_samples, values_at_once=forms.roi_values_at_once,
        )  # fmt: skip

    def forward(self, images: Tensor, sizes_hw: Tensor) -> Detections:
        """Detect objects in normalized images `[B, 3, H, W]` of true sizes `sizes_hw` `[B, 2]`."""
        pyramid = self.features(images)
        proposals = self.propose(pyramid, sizes_hw)
        if self.forms.nms == "greedy":
            proposals = _without_padding(proposals)
        class_logits, box_deltas = self.box_head(self.roi_features(pyramid, proposals.boxes_xyxy))
        logits = [class_logits]
        for stage, box_head in enumerate(self.cascade):
            proposals = refined(proposals, box_deltas, sizes_hw, stage)
            class_logits, box_deltas = box_head(self.roi_features(pyramid, proposals.boxes_xyxy))
            logits.append(class_logits)
        scores, weights = mean_scores(logits, self.spec.head), DELTA_WEIGHTS[len(self.cascade)]
        return detect(scores, box_deltas, proposals, sizes_hw, self.spec.head, self.forms, weights)

    def losses(self, images: Tensor, sizes_hw: Tensor, targets: Targets, generator: torch.Generator) -> LossOutput:
        """Return the training losses; `generator` draws the samples of anchors and RoIs."""
        boxes, labels, valid = padded_truth(targets)
        return self.losses_with(images, sizes_hw, boxes, labels, valid, self.draw(images, valid.shape[1], generator))

    def draw(self, images: Tensor, rows: int, generator: torch.Generator) -> Noise:
        """Draw the noise of the losses on `images` `[B, 3, H, W]` with `rows` rows of ground truth; it is brought to their device."""
        anchors, proposals = self.rpn.counts((images.shape[2], images.shape[3]))
        drawn = (noise((len(images), count), generator).to(images.device) for count in (anchors, proposals + rows))
        return Noise(*drawn)

    def losses_with(
        self, images: Tensor, sizes_hw: Tensor, boxes: Tensor, labels: Tensor, valid: Tensor, drawn: Noise
    ) -> LossOutput:  # fmt: skip
        """Return the training losses for ground truth `[B, G, 4]`, `[B, G]`, `[B, G]`, G at least 1: a pure function of tensors."""
        pyramid = self.features(images)
        output: RpnOutput = self.rpn(pyramid)
        objectness, rpn_box = self.rpn.losses(output, boxes, valid, drawn.anchors)
        proposals = self.rpn.propose(output, sizes_hw)
        sample = sample_rois(proposals, boxes, labels, valid, drawn.rois, size=self.spec.head.roi_samples)
        roi_features = self.roi_features(pyramid, sample.proposals.boxes_xyxy)
        class_logits, box_deltas = self.box_head(roi_features)
        classifier, box = roi_losses(class_logits, box_deltas, sample.labels, sample.targets)
        later, rois = box_deltas, sample.proposals
        for stage, box_head in enumerate(self.cascade):
            rois = refined(rois, later, sizes_hw, stage)
            moved = relabelled(rois, boxes, labels, valid, stage + 1)
            logits, later = box_head(self.roi_features(pyramid, rois.boxes_xyxy))
            classifier_there, box_there = roi_losses(logits, later, moved.labels, moved.targets)
            classifier = classifier + LOSS_WEIGHTS[stage + 1] * classifier_there
            box = box + LOSS_WEIGHTS[stage + 1] * box_there
        terms = {"objectness": objectness, "rpn_box": rpn_box, "classifier": classifier, "box": box}
        return LossOutput(terms, pyramid, sample.proposals, sample.labels, roi_features, class_logits, box_deltas)


class _Method(nn.Module):
    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *args: Any) -> Any:
        return getattr(self.module, self.name)(*args)


def call_with(detector: nn.Module, state: Mapping[str, Tensor], method: str, *args: Any) -> Any:
    """Run `detector.method(*args)` with the tensors of `state` in place of its own, as `torch.func.functional_call` does for forward."""
    return functional_call(_Method(detector, method), {f"module.{name}": tensor for name, tensor in state.items()}, args)


def padded_truth(targets: Targets, multiple: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, labels and validity with a multiple of so many rows, at least one: a batch without objects has a row to index too."""
    boxes, labels, valid = targets.boxes_xyxy.float(), targets.labels, targets.valid
    rows = valid.shape[1]
    more = max(1, -(-rows // multiple)) * multiple - rows
    return F.pad(boxes, (0, 0, 0, more)), F.pad(labels, (0, more)), F.pad(valid, (0, more))


def _without_padding(proposals: Proposals) -> Proposals:
    # Valid proposals come first; the box head need not look at columns that no image fills.
    count = max(1, int(proposals.valid.sum(1).max()))
    return Proposals(proposals.boxes_xyxy[:, :count], proposals.valid[:, :count])


def build(spec: DetectorSpec, *, device: str | torch.device = "cpu", forms: Forms = EAGER) -> Detector:
    """Build the detector of `spec` with freshly drawn weights on `device` ("meta" allocates none)."""
    with torch.device(device):
        return Detector(spec, forms)
