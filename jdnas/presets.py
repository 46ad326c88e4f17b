"""Named base detectors as specs."""

from dataclasses import replace

from jdnas.errors import ConfigError, unknown_name
from jdnas.spec import DetectorSpec, Stage

_RESNET_DEPTHS = {"r18": (2, 2, 2, 2), "r34": (3, 4, 6, 3), "r50": (3, 4, 6, 3), "r101": (3, 4, 23, 3), "r152": (3, 8, 36, 3)}
_BASIC = {"r18", "r34"}
_LITE0_WIDTHS = (16, 24, 40, 80, 112, 192, 320)
_LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
_LITE_EXPANSION = 6

NAMES = (*_RESNET_DEPTHS, "lite0")


def _resnet(name: str, num_classes: int) -> DetectorSpec:
    depths = _RESNET_DEPTHS[name]
    inner = (64, 128, 256, 512)
    expansion = 1 if name in _BASIC else 4
    stages = tuple(Stage(w * expansion, (w,) * d) for w, d in zip(inner, depths, strict=True))
    return DetectorSpec("resnet_basic" if name in _BASIC else "resnet_bottleneck", 64, stages, num_classes)


def _lite0(num_classes: int) -> DetectorSpec:
    stem, stages, reads = 32, [], 32
    for index, (width, depth) in enumerate(zip(_LITE0_WIDTHS, _LITE0_DEPTHS, strict=True)):
        first = stem if index == 0 else reads * _LITE_EXPANSION
        stages.append(Stage(width, (first,) + (width * _LITE_EXPANSION,) * (depth - 1)))
        reads = width
    return DetectorSpec("efficientnet_lite", stem, tuple(stages), num_classes)


def preset(name: str, num_classes: int) -> DetectorSpec:
    """Return the spec of a named base detector with `num_classes` foreground classes."""
    if name in _RESNET_DEPTHS:
        return _resnet(name, num_classes)
    if name == "lite0":
        return _lite0(num_classes)
    raise ConfigError(unknown_name("base", name, NAMES, "List them with: jdnas bases"))


def round_width(width: float, step: int) -> int:
    """Round to the nearest positive multiple of `step`."""
    return max(step, int(width / step + 0.5) * step)


def scale_backbone(spec: DetectorSpec, factor: float, step: int = 8) -> DetectorSpec:
    """Return `spec` with every backbone width multiplied by `factor` and rounded to `step`."""
    if factor == 1.0:
        return spec
    stem = round_width(spec.stem * factor, step)
    stages = [Stage(round_width(s.width * factor, step), tuple(round_width(w * factor, step) for w in s.inner)) for s in spec.stages]
    if spec.traits.first_block_unexpanded:
        stages[0] = Stage(stages[0].width, (stem, *stages[0].inner[1:]))
    return replace(spec, stem=stem, stages=tuple(stages))
