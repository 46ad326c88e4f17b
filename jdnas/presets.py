"""Named base detectors as specs."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from jdnas.errors import ConfigError, unknown_name
from jdnas.spec import DetectorSpec, Stage

_RESNET_DEPTHS = {"r18": (2, 2, 2, 2), "r34": (3, 4, 6, 3), "r50": (3, 4, 6, 3), "r101": (3, 4, 23, 3), "r152": (3, 8, 36, 3)}
_BASIC = {"r18", "r34"}
_RESNEXT_DEPTHS = {"x50": _RESNET_DEPTHS["r50"], "x101": _RESNET_DEPTHS["r101"]}
_RESNEXT_GROUPS = {"32x4d": (32, 4), "32x8d": (32, 8), "64x4d": (64, 4)}
_MOBILE_EXPANSION = 6
_LITE_WIDTHS, _LITE_DEPTHS, _LITE_STEM = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 32
_LITE_FACTORS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2), "lite3": (1.2, 1.4), "lite4": (1.4, 1.8)}
# MobileNetV3-Large (Howard et al. 2019, Table 1): output and inner widths of each stage.
_V3_WIDTHS = (16, 24, 40, 80, 112, 160)
_V3_INNER = ((16,), (64, 72), (72, 120, 120), (240, 200, 184, 184), (480, 672), (672, 960, 960))


def _resnet(name: str, num_classes: int) -> DetectorSpec:
    expansion = 1 if name in _BASIC else 4
    stages = tuple(Stage(w * expansion, (w,) * d) for w, d in zip((64, 128, 256, 512), _RESNET_DEPTHS[name], strict=True))
    return DetectorSpec("resnet_basic" if name in _BASIC else "resnet_bottleneck", 64, stages, num_classes)


def _resnext(depths: tuple[int, ...], groups: int, group_width: int, num_classes: int) -> DetectorSpec:
    inner = (groups * group_width * 2**i for i in range(4))
    stages = tuple(Stage(256 * 2**i, (w,) * d) for i, (w, d) in enumerate(zip(inner, depths, strict=True)))
    return DetectorSpec(f"resnext_{group_width}d", 64, stages, num_classes)


def _inverted(family: str, stem: int, widths: tuple[int, ...], depths: tuple[int, ...], num_classes: int) -> DetectorSpec:
    stages, reads = [], stem
    for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        first = stem if index == 0 else reads * _MOBILE_EXPANSION
        stages.append(Stage(width, (first,) + (width * _MOBILE_EXPANSION,) * (depth - 1)))
        reads = width
    return DetectorSpec(family, stem, tuple(stages), num_classes)


def _mobilenet_v2(num_classes: int) -> DetectorSpec:
    return _inverted("mobilenet_v2", 32, (16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1), num_classes)


def _mobilenet_v3(num_classes: int) -> DetectorSpec:
    plain = [Stage(width, inner) for width, inner in zip(_V3_WIDTHS, _V3_INNER, strict=True)]
    stages = [replace(s, squeeze=tuple(divisible(w / 4) for w in s.inner)) if i in (2, 4, 5) else s for i, s in enumerate(plain)]
    return DetectorSpec("mobilenet_v3", 16, tuple(stages), num_classes, tail=960)


def _lite(name: str, num_classes: int) -> DetectorSpec:
    # The stem keeps its width, the first and the last stage their depth (Liu 2020, the announcement of EfficientNet-Lite).
    width_factor, depth_factor = _LITE_FACTORS[name]
    widths = tuple(divisible(width * width_factor) for width in _LITE_WIDTHS)
    middle = tuple(math.ceil(depth * depth_factor) for depth in _LITE_DEPTHS[1:-1])
    return _inverted("efficientnet_lite", _LITE_STEM, widths, (_LITE_DEPTHS[0], *middle, _LITE_DEPTHS[-1]), num_classes)


def _r50_v2(num_classes: int) -> DetectorSpec:
    """Torchvision's fasterrcnn_resnet50_fpn_v2 (Li et al. 2021)."""
    spec = _resnet("r50", num_classes)
    return replace(spec, neck_norm=True, head=replace(spec.head, rpn_convs=2, convs=(256,) * 4, fcs=1))


def _mobilenet_v3_fpn(num_classes: int) -> DetectorSpec:
    """Torchvision's fasterrcnn_mobilenet_v3_large_fpn: two maps at stride 32, and all anchors on every level."""
    spec = _mobilenet_v3(num_classes)
    head = replace(spec.head, strides=(32, 32, 64), anchor_sizes=(32,) * 3, anchor_scales=(1.0, 2.0, 4.0, 8.0, 16.0))
    return replace(spec, head=replace(head, rpn_score_threshold=0.05))


_MAKERS: dict[str, Callable[[int], DetectorSpec]] = {
    **{name: partial(_resnet, name) for name in _RESNET_DEPTHS},
    **{
        f"{name}_{variant}": partial(_resnext, depths, *groups)
        for name, depths in _RESNEXT_DEPTHS.items()
        for variant, groups in _RESNEXT_GROUPS.items()
    },
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v3": _mobilenet_v3,
    **{name: partial(_lite, name) for name in _LITE_FACTORS},
    "r50_v2": _r50_v2,
    "mobilenet_v3_fpn": _mobilenet_v3_fpn,
}
NAMES = tuple(_MAKERS)


def _cascade(spec: DetectorSpec) -> DetectorSpec:
    return replace(spec, head=replace(spec.head, kind="cascade"))


_EXTRAS: dict[str, Callable[[DetectorSpec], DetectorSpec]] = {
    "dcn": partial(replace, deformable=(1, 2, 3)),
    "mdcn": partial(replace, deformable=(1, 2, 3), modulated=True),
    "cascade": _cascade,
}
EXTRAS = tuple(_EXTRAS)


def plain_name(name: str) -> str:
    """Return the name of a base without its extras."""
    return name.split("-")[0]


def preset(name: str, num_classes: int) -> DetectorSpec:
    """Return the spec of a named base detector with `num_classes` foreground classes.

    Extras follow the name: `x101_32x4d-dcn-cascade` has deformable convolutions in its last three stages (`dcn`, or modulated ones
    with `mdcn`) and a cascade head.
    """
    plain, *extras = name.split("-")
    if plain not in _MAKERS:
        raise ConfigError(unknown_name("base", plain, NAMES, "List them with: jdnas bases"))
    spec = _MAKERS[plain](num_classes)
    for extra in extras:
        if extra not in _EXTRAS:
            raise ConfigError(unknown_name(f"extra of base {plain!r}", extra, EXTRAS))
        spec = _EXTRAS[extra](spec)
    return spec


def round_width(width: float, step: int) -> int:
    """Round to the nearest positive multiple of `step`."""
    return max(step, int(width / step + 0.5) * step)


def divisible(width: float, step: int = 8) -> int:
    """Round to the nearest multiple of `step` that is not more than 10 % smaller, as MobileNets and EfficientNets do."""
    rounded = round_width(width, step)
    return rounded + step if rounded < 0.9 * width else rounded


def scale_stage(spec: DetectorSpec, index: int, stage: Stage, factor: float, step: int) -> Stage:
    """Return `stage` at place `index` of `spec` with every width multiplied by `factor`, rounded to `step` and to whole groups."""
    inner_step = spec.traits.inner_step(index, step)
    return Stage(
        round_width(stage.width * factor, step),
        tuple(round_width(width * factor, inner_step) for width in stage.inner),
        tuple(round_width(width * factor, step) for width in stage.squeeze),
    )


def scale_backbone(spec: DetectorSpec, factor: float, step: int = 8) -> DetectorSpec:
    """Return `spec` with every backbone width multiplied by `factor` and rounded to `step`."""
    if factor == 1.0:
        return spec
    stages = tuple(scale_stage(spec, index, stage, factor, step) for index, stage in enumerate(spec.stages))
    scaled = spec.with_stages(stages, stem=round_width(spec.stem * factor, step))
    return replace(scaled, tail=round_width(spec.tail * factor, step)) if spec.tail else scaled
