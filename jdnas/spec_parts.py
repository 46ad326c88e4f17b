"""The parts of a detector's spec: its backbone's stages and its head."""

from dataclasses import dataclass
from typing import Literal

from jdnas.errors import ConfigError, unknown_name
from jdnas.families import LEVEL_STRIDES

ROI_SIZE = 7
CASCADE_IOUS = (0.5, 0.6, 0.7)


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of blocks at one stride: output width, and one inner width per block (so the depth is a length).

    `squeeze`: one width per block of its squeeze-and-excitation, in stages whose family has it.
    """

    width: int
    inner: tuple[int, ...]
    squeeze: tuple[int, ...] = ()

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.inner)

    def without(self, position: int) -> "Stage":
        """Return this stage less one block."""
        drop = slice(position, position + 1)
        return Stage(self.width, _cut_out(self.inner, drop), _cut_out(self.squeeze, drop))

    def with_copy(self, position: int) -> "Stage":
        """Return this stage with one more block at `position`, as wide inside as its last one."""
        place = slice(position, position)
        return Stage(self.width, _cut_out(self.inner, place, self.inner[-1:]), _cut_out(self.squeeze, place, self.squeeze[-1:]))


def _cut_out(widths: tuple[int, ...], place: slice, new: tuple[int, ...] = ()) -> tuple[int, ...]:
    return (*widths[: place.start], *new, *widths[place.stop :])


@dataclass(frozen=True, slots=True)
class Head:
    """RPN and box head: levels, widths, anchors, and the constants of the fixed-shape proposal and detection steps.

    `strides`: the pyramid's levels, in pixels of the network input. Those up to 32 are read from the backbone (a stride that
    stands twice reads its first block and its last one, as torchvision's MobileNetV3 does), those above are pooled. Every level
    has anchors of its entry in `anchor_sizes` (pixels) times each of `anchor_scales`, in each of `anchor_ratios` (height / width).

    `candidates` are kept per level before NMS and `proposals` per image after it (`train_*` while training);
    `anchor_samples` and `roi_samples` are the balanced samples per image that the losses are computed on.

    The RPN has `rpn_convs` 3x3 convolutions. The box head has 3x3 convolutions with batch normalization of the widths `convs`, then
    `fcs` layers of `width`. A `cascade` has three box heads with class-agnostic boxes (Cai and Vasconcelos 2018); its class scores
    are the mean over them of `cascade_mean`: probabilities as in the paper and detectron2, or logits as in mmdetection.

    Conventions in which detectors of different origin differ; the defaults are torchvision's. `round_anchors`: anchor corners are
    rounded to whole pixels, and strides are the canvas divided by the map without remainder; else both are exact. `anchor_offset`:
    first anchor center from the corner of the image, in strides. `roi_aligned`: RoIAlign reads half a pixel further left and up, where
    pixel centers are. `roi_sampling`: its samples per bin and direction; 0 takes as many as the bin has pixels.
    """

    kind: Literal["rcnn", "cascade"] = "rcnn"
    width: int = 1024
    rpn_width: int = 256
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    round_anchors: bool = True
    anchor_offset: float = 0.0
    roi_aligned: bool = False
    roi_sampling: int = 2
    candidates: int = 1000
    proposals: int = 1000
    train_candidates: int = 2000
    train_proposals: int = 2000
    anchor_samples: int = 256
    roi_samples: int = 512
    detections: int = 100
    rpn_nms_iou: float = 0.7
    nms_iou: float = 0.5
    score_threshold: float = 0.05
    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    anchor_scales: tuple[float, ...] = (1.0,)
    rpn_convs: int = 1
    rpn_score_threshold: float = 0.0
    convs: tuple[int, ...] = ()
    fcs: int = 2
    cascade_mean: Literal["probabilities", "logits"] = "probabilities"

    def __post_init__(self) -> None:
        if self.kind not in ("rcnn", "cascade"):
            raise ConfigError(unknown_name("head kind", self.kind, ("rcnn", "cascade")))
        if len(self.anchor_sizes) != len(self.strides):
            raise ConfigError(f"a head needs one anchor size per level: {len(self.strides)} strides, {len(self.anchor_sizes)} anchor_sizes")
        read = [s for s in self.strides if s <= 32]
        pooled = list(self.strides[len(read) :])
        if read != sorted(read) or any(read.count(s) > 2 or s not in LEVEL_STRIDES for s in read):
            raise ConfigError(f"strides must rise through 4, 8, 16 and 32, each at most twice; got {self.strides}")
        if pooled != [64 << i for i in range(len(pooled))]:
            raise ConfigError(f"strides above 32 must double from level to level, got {self.strides}")
        if self.rpn_convs < 1 or self.fcs not in (1, 2):
            raise ConfigError(f"a head has at least 1 rpn_convs and 1 or 2 fcs, got {self.rpn_convs} and {self.fcs}")
        if self.roi_sampling < 0:
            raise ConfigError(f"roi_sampling must be 0 (as many as a bin has pixels) or more, got {self.roi_sampling}")

    @property
    def read_strides(self) -> tuple[int, ...]:
        """Strides of the levels that are read from the backbone, which are also those that RoIs are pooled from."""
        return tuple(stride for stride in self.strides if stride <= 32)

    @property
    def anchors(self) -> int:
        """Anchors at each position."""
        return len(self.anchor_ratios) * len(self.anchor_scales)

    @property
    def box_heads(self) -> int:
        """Box heads that run one after the other."""
        return len(CASCADE_IOUS) if self.kind == "cascade" else 1

    def box_outputs(self, num_classes: int) -> int:
        """Boxes that a box head predicts per RoI: one per class and the background, or one for all in a cascade."""
        return 1 if self.kind == "cascade" else num_classes + 1
