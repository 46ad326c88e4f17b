"""Architectures as plain data: frozen, hashable, JSON-serializable, without torch."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from jdnas.errors import ConfigError, unknown_name
from jdnas.families import FAMILIES, FamilyTraits
from jdnas.spec_parts import CASCADE_IOUS, ROI_SIZE, Head, Stage

__all__ = ["CASCADE_IOUS", "FAMILIES", "ROI_SIZE", "DetectorSpec", "FamilyTraits", "Head", "Stage"]

# A spec that uses nothing which came after version 1 is written as version 1, so that its key and older readers stay.
SPEC_VERSIONS = (1, 2)
_SINCE_VERSION_2 = {
    "spec": ("stride_in_1x1", "tail", "neck_norm", "deformable", "modulated"),
    "stage": ("squeeze",),
    "head": (
        "round_anchors", "anchor_offset", "roi_aligned", "roi_sampling", "strides", "anchor_scales", "rpn_convs", "rpn_score_threshold",
        "convs", "fcs", "cascade_mean",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """A Faster R-CNN FPN detector (Joint-DetNAS, section 3.1): everything that decides its shapes and nothing else.

    `num_classes` counts foreground classes; class index 0 of the network is the background. `stride_in_1x1`: bottleneck blocks
    have their stride in the first convolution rather than in the 3x3 one, as in the original (Caffe) ResNets.

    `tail`: width of a 1x1 convolution after the last stage (0: none). `neck_norm` gives the FPN batch normalization in place of
    biases. The 3x3 convolutions of the `deformable` stages of a bottleneck family learn where they sample (Dai et al. 2017), and
    if `modulated` how much (Zhu et al. 2019).
    """

    family: str
    stem: int
    stages: tuple[Stage, ...]
    num_classes: int
    neck: int = 256
    head: Head = field(default_factory=Head)
    stride_in_1x1: bool = False
    tail: int = 0
    neck_norm: bool = False
    deformable: tuple[int, ...] = ()
    modulated: bool = False

    def __post_init__(self) -> None:
        traits = self.traits
        if len(self.stages) != len(traits.strides):
            raise ConfigError(f"family {self.family!r} has {len(traits.strides)} stages, got {len(self.stages)}")
        widths = [self.stem, self.neck, self.head.width, self.head.rpn_width, self.num_classes, *self.head.convs]
        widths += [w for stage in self.stages for w in (stage.width, stage.depth, *stage.inner, *stage.squeeze)]
        if min(widths) < 1 or self.tail < 0:
            raise ConfigError("every width, depth and class count of a spec must be at least 1")
        if traits.tied_stem and self.stem != self.stages[0].width:
            raise ConfigError(f"family {self.family!r} needs stem == stages[0].width, got {self.stem} and {self.stages[0].width}")
        if traits.first_block_unexpanded and self.stages[0].inner[0] != self.stem:
            raise ConfigError(f"family {self.family!r} needs stages[0].inner[0] == stem, got {self.stages[0].inner[0]} and {self.stem}")
        if 32 not in self.head.strides:
            raise ConfigError(f"a pyramid must read the last stage, at stride 32; got strides {self.head.strides}")
        self._check_stages()

    def _check_stages(self) -> None:
        traits = self.traits
        for index, stage in enumerate(self.stages):
            group, squeezes = traits.group_widths[index] or 1, stage.depth if traits.squeezed[index] else 0
            if any(width % group for width in stage.inner):
                raise ConfigError(f"inner widths of stage {index} of {self.family!r} must be multiples of {group}, got {stage.inner}")
            if len(stage.squeeze) != squeezes:
                raise ConfigError(f"stage {index} of {self.family!r} needs {squeezes} squeeze widths, got {len(stage.squeeze)}")
        if self.tail and traits.block != "mbconv":
            raise ConfigError(f"family {self.family!r} has no tail, got width {self.tail}")
        if self.stride_in_1x1 and traits.block != "bottleneck":
            raise ConfigError(f"family {self.family!r} has no bottleneck blocks, so it cannot have stride_in_1x1")
        if self.deformable and traits.block != "bottleneck":
            raise ConfigError(f"deformable stages need a bottleneck family, got {self.family!r}")
        if any(not 0 <= index < len(self.stages) for index in self.deformable) or list(self.deformable) != sorted(set(self.deformable)):
            raise ConfigError(f"deformable must list stages of 0..{len(self.stages) - 1} in order, got {self.deformable}")

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
    def taps(self) -> tuple[tuple[int, bool], ...]:
        """What the pyramid reads, level by level: a stage, and whether all of it or only its first block."""
        at, read = self.traits.stage_strides, self.head.read_strides
        found = []
        for level, stride in enumerate(read):
            first = stride in read[level + 1 :]
            stages = [index for index, s in enumerate(at) if s == stride]
            found.append((stages[0] if first else stages[-1], not first))
        return tuple(found)

    @property
    def tap_widths(self) -> tuple[int, ...]:
        """The widths of the maps that the pyramid reads."""
        widths = [self.stages[stage].width for stage, _ in self.taps]
        return (*widths[:-1], self.tail or widths[-1])

    @property
    def key(self) -> str:
        """Twelve hex digits that name this architecture."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def with_stages(self, stages: tuple[Stage, ...], *, stem: int | None = None) -> "DetectorSpec":
        """Return this spec with other stages and stem; tied widths follow the first stage's, then the stem's."""
        stem = stages[0].width if self.traits.tied_stem else stem or self.stem
        if self.traits.first_block_unexpanded:
            stages = (replace(stages[0], inner=(stem, *stages[0].inner[1:])), *stages[1:])
        return replace(self, stages=stages, stem=stem)

    def with_stage(self, index: int, stage: Stage) -> "DetectorSpec":
        """Return this spec with one stage replaced; tied widths follow."""
        return self.with_stages((*self.stages[:index], stage, *self.stages[index + 1 :]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        data = json.loads(json.dumps(asdict(self)))
        parts = [(data, "spec", DetectorSpec), (data["head"], "head", Head), *((stage, "stage", Stage) for stage in data["stages"])]
        newer = [_drop_defaults(part, kind, _SINCE_VERSION_2[name]) for part, name, kind in parts]
        return {"version": 2 if any(newer) else 1, **data}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "DetectorSpec":
        """Read what `to_dict` wrote; a ConfigError says what does not fit."""
        if not isinstance(data, dict) or data.get("version") not in SPEC_VERSIONS:
            got = data.get("version") if isinstance(data, dict) else type(data).__name__
            known = " and ".join(map(str, SPEC_VERSIONS))
            raise ConfigError(f"spec version {got!r} cannot be read; this jdnas reads versions {known}")
        try:
            stages = tuple(
                Stage(int(s["width"]), *(tuple(int(w) for w in s.get(name, ())) for name in ("inner", "squeeze"))) for s in data["stages"]
            )
            rest = {k: v for k, v in _tupled(data).items() if k not in ("version", "stages", "head")}
            return DetectorSpec(stages=stages, head=Head(**_tupled(data["head"])), **rest)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"malformed detector spec: {error}") from error


def _tupled(data: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def _drop_defaults(data: dict[str, Any], kind: type, names: tuple[str, ...]) -> bool:
    """Drop those of `names` that have their default value; tell whether any is left."""
    defaults = {f.name: f.default for f in fields(kind)}
    for name in names:
        default = defaults[name]
        if data[name] == (list(default) if isinstance(default, tuple) else default):
            del data[name]
    return any(name in data for name in names)
