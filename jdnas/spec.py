"""Architectures as plain data: frozen, hashable, JSON-serializable, without torch."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from jdnas.errors import ConfigError, unknown_name

SPEC_VERSION = 1
ROI_SIZE = 7
BlockKind = Literal["basic", "bottleneck", "mbconv"]


@dataclass(frozen=True, slots=True)
class FamilyTraits:
    """What all detectors of a backbone family share.

    `strides`, `kernels`: one entry per stage; `taps`: indices of the stages that feed FPN levels P2..P5.
    `mean`, `std`: input normalization for RGB in [0, 1]. `tied_stem`: the first stage's identity shortcut makes the stem
    as wide as the first stage. `first_block_unexpanded`: the first block has no expansion, so its inner width is the stem's.
    """

    block: BlockKind
    strides: tuple[int, ...]
    kernels: tuple[int, ...]
    taps: tuple[int, int, int, int]
    norm_eps: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tied_stem: bool = False
    first_block_unexpanded: bool = False


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LITE = ((127 / 255,) * 3, (128 / 255,) * 3)

FAMILIES: dict[str, FamilyTraits] = {
    "resnet_basic": FamilyTraits("basic", (1, 2, 2, 2), (3,) * 4, (0, 1, 2, 3), 1e-5, *_IMAGENET, tied_stem=True),
    "resnet_bottleneck": FamilyTraits("bottleneck", (1, 2, 2, 2), (3,) * 4, (0, 1, 2, 3), 1e-5, *_IMAGENET),
    "efficientnet_lite": FamilyTraits(
        "mbconv", (1, 2, 2, 2, 1, 2, 1), (3, 3, 5, 3, 5, 5, 3), (1, 2, 4, 6), 1e-3, *_LITE, first_block_unexpanded=True
    ),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of blocks at one stride: output width, and one inner width per block (so the depth is a length)."""

    width: int
    inner: tuple[int, ...]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.inner)


@dataclass(frozen=True, slots=True)
class Head:
    """RPN and box head: widths, anchors, and the constants of the fixed-shape proposal and detection steps.

    `candidates` are kept per level before NMS and `proposals` per image after it (`train_*` while training);
    `anchor_samples` and `roi_samples` are the balanced samples per image that the losses are computed on;
    anchor sizes are in pixels of the network input, one per FPN level.

    Conventions in which detectors of different origin differ; the defaults are torchvision's. `round_anchors`: anchor corners are
    rounded to whole pixels, and strides are the canvas divided by the map without remainder; else both are exact. `anchor_offset`:
    first anchor center from the corner of the image, in strides. `roi_aligned`: RoIAlign reads half a pixel further left and up, where
    pixel centers are. `roi_sampling`: its samples per bin and direction; 0 takes as many as the bin has pixels.
    """

    kind: Literal["rcnn"] = "rcnn"
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


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """A Faster R-CNN FPN detector (Joint-DetNAS, section 3.1): everything that decides its shapes and nothing else.

    `num_classes` counts foreground classes; class index 0 of the network is the background. `stride_in_1x1`: bottleneck blocks
    have their stride in the first convolution rather than in the 3x3 one, as in the original (Caffe) ResNets.
    """

    family: str
    stem: int
    stages: tuple[Stage, ...]
    num_classes: int
    neck: int = 256
    head: Head = field(default_factory=Head)
    stride_in_1x1: bool = False

    def __post_init__(self) -> None:
        traits = self.traits
        if len(self.stages) != len(traits.strides):
            raise ConfigError(f"family {self.family!r} has {len(traits.strides)} stages, got {len(self.stages)}")
        widths = [self.stem, self.neck, self.head.width, self.head.rpn_width, self.num_classes]
        widths += [w for stage in self.stages for w in (stage.width, stage.depth, *stage.inner)]
        if min(widths) < 1:
            raise ConfigError("every width, depth and class count of a spec must be at least 1")
        if self.head.roi_sampling < 0:
            raise ConfigError(f"roi_sampling must be 0 (as many as a bin has pixels) or more, got {self.head.roi_sampling}")
        if self.stride_in_1x1 and traits.block != "bottleneck":
            raise ConfigError(f"family {self.family!r} has no bottleneck blocks, so it cannot have stride_in_1x1")
        if traits.tied_stem and self.stem != self.stages[0].width:
            raise ConfigError(f"family {self.family!r} needs stem == stages[0].width, got {self.stem} and {self.stages[0].width}")
        if traits.first_block_unexpanded and self.stages[0].inner[0] != self.stem:
            raise ConfigError(f"family {self.family!r} needs stages[0].inner[0] == stem, got {self.stages[0].inner[0]} and {self.stem}")

    @property
    def traits(self) -> FamilyTraits:
        """The constants of this spec's family."""
        if self.family not in FAMILIES:
            raise ConfigError(unknown_name("backbone family", self.family, FAMILIES))
        return FAMILIES[self.family]

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks per stage."""
        return tuple(stage.depth for stage in self.stages)

    @property
    def key(self) -> str:
        """Twelve hex digits that name this architecture."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def with_stage(self, index: int, stage: Stage) -> "DetectorSpec":
        """Return this spec with one stage replaced; tied widths follow."""
        stages = (*self.stages[:index], stage, *self.stages[index + 1 :])
        stem = stage.width if index == 0 and self.traits.tied_stem else self.stem
        return replace(self, stages=stages, stem=stem)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"version": SPEC_VERSION, **json.loads(json.dumps(asdict(self)))}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "DetectorSpec":
        """Read what `to_dict` wrote; a ConfigError says what does not fit."""
        if not isinstance(data, dict) or data.get("version") != SPEC_VERSION:
            got = data.get("version") if isinstance(data, dict) else type(data).__name__
            raise ConfigError(f"spec version {got!r} cannot be read; this jdnas reads version {SPEC_VERSION}")
        try:
            stages = tuple(Stage(int(s["width"]), tuple(int(w) for w in s["inner"])) for s in data["stages"])
            head_data: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data["head"].items()}
            head = Head(**head_data)
            rest = {k: v for k, v in data.items() if k not in ("version", "stages", "head")}
            return DetectorSpec(stages=stages, head=head, **rest)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"malformed detector spec: {error}") from error
