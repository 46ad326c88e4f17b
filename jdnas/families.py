"""Backbone families: what all detectors of one share. Plain data, without torch."""

import math
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Literal

BlockKind = Literal["basic", "bottleneck", "mbconv"]
Activation = Literal["relu", "relu6", "hard_swish", "none"]
Padding = Literal["symmetric", "tf_same"]
Rgb = tuple[float, float, float]
LEVEL_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class FamilyTraits:
    """What all detectors of a backbone family share.

    `strides`, `kernels`, `activations`, `squeezed`, `group_widths`: one entry per stage. `squeezed` stages have
    squeeze-and-excitation; the 3x3 convolutions of a bottleneck work on groups of `group_widths` channels (0: on all of them).
    `mean`, `std`: input normalization for RGB in [0, 1]. `tied_stem`: the first stage's identity shortcut makes the stem
    as wide as the first stage. `first_block_unexpanded`: the first block has no expansion, so its inner width is the stem's.
    """

    block: BlockKind
    strides: tuple[int, ...]
    kernels: tuple[int, ...]
    norm_eps: float
    mean: Rgb
    std: Rgb
    activations: tuple[Activation, ...]
    stem_activation: Activation
    squeezed: tuple[bool, ...]
    group_widths: tuple[int, ...]
    padding: Padding = "symmetric"
    tied_stem: bool = False
    first_block_unexpanded: bool = False

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Return the stride, in input pixels, of the maps of every stage."""
        return tuple(accumulate(self.strides, mul, initial=2 if self.block == "mbconv" else 4))[1:]

    @property
    def taps(self) -> tuple[int, ...]:
        """Return the stages that feed FPN levels P2..P5: the last ones at strides 4, 8, 16 and 32."""
        return tuple(max(i for i, s in enumerate(self.stage_strides) if s == stride) for stride in LEVEL_STRIDES)

    def inner_step(self, stage: int, step: int) -> int:
        """Return the step of inner widths of a stage that keeps groups whole and is a multiple of `step`."""
        return math.lcm(step, self.group_widths[stage] or 1)


def _resnet(
    block: BlockKind, mean: Rgb, std: Rgb, *,
    group_widths: tuple[int, ...] = (0,) * 4, tied_stem: bool = False,
) -> FamilyTraits:  # fmt: skip
    return FamilyTraits(
        block, (1, 2, 2, 2), (3,) * 4, 1e-5, mean, std, ("relu",) * 4, "relu", (False,) * 4, group_widths,
        tied_stem=tied_stem,
    )  # fmt: skip


_SEVEN_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LITE = ((127 / 255,) * 3, (128 / 255,) * 3)

FAMILIES: dict[str, FamilyTraits] = {
    "resnet_basic": _resnet("basic", *_IMAGENET, tied_stem=True),
    "resnet_bottleneck": _resnet("bottleneck", *_IMAGENET),
    "resnext_4d": _resnet("bottleneck", *_IMAGENET, group_widths=(4, 8, 16, 32)),
    "resnext_8d": _resnet("bottleneck", *_IMAGENET, group_widths=(8, 16, 32, 64)),
    "mobilenet_v2": FamilyTraits(
        "mbconv", _SEVEN_STRIDES, (3,) * 7, 1e-5, *_IMAGENET, ("relu6",) * 7, "relu6", (False,) * 7, (0,) * 7,
        first_block_unexpanded=True,
    ),
    "mobilenet_v3": FamilyTraits(
        "mbconv", (1, 2, 2, 2, 1, 2), (3, 3, 5, 3, 3, 5), 1e-3, *_IMAGENET, ("relu",) * 3 + ("hard_swish",) * 3, "hard_swish",
        (False, False, True, False, True, True), (0,) * 6, tied_stem=True, first_block_unexpanded=True,
    ),
    "efficientnet_lite": FamilyTraits(
        "mbconv", _SEVEN_STRIDES, (3, 3, 5, 3, 5, 5, 3), 1e-3, *_LITE, ("relu6",) * 7, "relu6", (False,) * 7, (0,) * 7,
        padding="tf_same", first_block_unexpanded=True,
    ),
}  # fmt: skip
