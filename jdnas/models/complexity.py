"""Multiply-adds and parameters of a spec, layer by layer, without building it.

One multiply and one addition count as one. Norms, activations, pooling, RoIAlign and NMS are not counted, as in the
figures of the paper (Joint-DetNAS, Table 4).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from jdnas.spec import ROI_SIZE, DetectorSpec

LayerKind = Literal["conv", "depthwise", "linear"]
SizeHW = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer on one input: `height` and `width` are those of its output, `calls` how often it runs per image."""

    name: str
    part: str
    kind: LayerKind
    in_width: int
    out_width: int
    kernel: int
    stride: int
    height: int
    width: int
    calls: int = 1
    norm: bool = False
    bias: bool = False
    shared: bool = False

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds per image."""
        reads = 1 if self.kind == "depthwise" else self.in_width
        return self.calls * self.height * self.width * self.kernel**2 * reads * self.out_width

    @property
    def parameters(self) -> int:
        """Trainable parameters; 0 where the weights were counted at an earlier layer of the same name."""
        if self.shared:
            return 0
        reads = 1 if self.kind == "depthwise" else self.in_width
        return self.kernel**2 * reads * self.out_width + self.out_width * (2 * self.norm + self.bias)


def _half(size_hw: SizeHW) -> SizeHW:
    return (size_hw[0] + 1) // 2, (size_hw[1] + 1) // 2


def _block(spec: DetectorSpec, stage: int, position: int, reads: int, size: SizeHW, stride: int) -> Iterator[LayerCost]:
    traits, this = spec.traits, spec.stages[stage]
    name, part, inner = f"backbone.stages.{stage}.{position}", f"backbone.s{stage}", this.inner[position]
    small = _half(size) if stride == 2 else size

    def conv(suffix: str, reads: int, writes: int, kernel: int, stride: int, out: SizeHW, kind: LayerKind = "conv") -> LayerCost:
        return LayerCost(f"{name}.{suffix}", part, kind, reads, writes, kernel, stride, *out, norm=True)

    if traits.block == "mbconv":
        if (stage, position) != (0, 0):
            yield conv("expand", reads, inner, 1, 1, size)
        yield conv("depthwise", inner, inner, traits.kernels[stage], stride, small, "depthwise")
        yield conv("project", inner, this.width, 1, 1, small)
        return
    if traits.block == "basic":
        yield conv("conv1", reads, inner, 3, stride, small)
        yield conv("conv2", inner, this.width, 3, 1, small)
    else:
        if spec.stride_in_1x1:
            yield conv("conv1", reads, inner, 1, stride, small)
            yield conv("conv2", inner, inner, 3, 1, small)
        else:
            yield conv("conv1", reads, inner, 1, 1, size)
            yield conv("conv2", inner, inner, 3, stride, small)
        yield conv("conv3", inner, this.width, 1, 1, small)
    if position == 0 and not (stage == 0 and traits.tied_stem):
        yield conv("shortcut", reads, this.width, 1, stride, small)


def _backbone(spec: DetectorSpec, size: SizeHW) -> Iterator[LayerCost]:
    mbconv = spec.traits.block == "mbconv"
    size = _half(size)
    yield LayerCost("backbone.stem", "backbone.stem", "conv", 3, spec.stem, 3 if mbconv else 7, 2, *size, norm=True)
    if not mbconv:
        size = _half(size)
    reads = spec.stem
    for index, stage in enumerate(spec.stages):
        for position in range(stage.depth):
            stride = spec.traits.strides[index] if position == 0 else 1
            yield from _block(spec, index, position, reads, size, stride)
            size = _half(size) if stride == 2 else size
            reads = stage.width


def _heads(spec: DetectorSpec, size: SizeHW) -> Iterator[LayerCost]:
    head, levels = spec.head, [_half(_half(size))]
    for _ in range(4):
        levels.append(_half(levels[-1]))
    for level, (tap, hw) in enumerate(zip(spec.traits.taps, levels[:4], strict=True)):
        yield LayerCost(f"fpn.lateral.{level}", "neck", "conv", spec.stages[tap].width, spec.neck, 1, 1, *hw, bias=True)
        yield LayerCost(f"fpn.output.{level}", "neck", "conv", spec.neck, spec.neck, 3, 1, *hw, bias=True)
    anchors = len(head.anchor_ratios)
    for level, hw in enumerate(levels):
        shared = level > 0
        yield LayerCost("rpn.conv", "rpn", "conv", spec.neck, head.rpn_width, 3, 1, *hw, bias=True, shared=shared)
        yield LayerCost("rpn.objectness", "rpn", "conv", head.rpn_width, anchors, 1, 1, *hw, bias=True, shared=shared)
        yield LayerCost("rpn.deltas", "rpn", "conv", head.rpn_width, 4 * anchors, 1, 1, *hw, bias=True, shared=shared)
    classes = spec.num_classes + 1
    for name, reads, writes in (
        ("fc6", spec.neck * ROI_SIZE**2, head.width),
        ("fc7", head.width, head.width),
        ("class_logits", head.width, classes),
        ("box_deltas", head.width, 4 * classes),
    ):
        yield LayerCost(f"box_head.{name}", "roi", "linear", reads, writes, 1, 1, 1, 1, calls=head.proposals, bias=True)


@lru_cache(maxsize=512)
def layers(spec: DetectorSpec, size_hw: SizeHW) -> tuple[LayerCost, ...]:
    """Return every layer that inference on one image of `size_hw` (height, width) pixels runs, in order."""
    return (*_backbone(spec, size_hw), *_heads(spec, size_hw))


def multiply_adds(spec: DetectorSpec, size_hw: SizeHW) -> int:
    """Return the multiply-adds of inference on one image."""
    return sum(layer.multiply_adds for layer in layers(spec, size_hw))


def backbone_multiply_adds(spec: DetectorSpec, size_hw: SizeHW) -> int:
    """Return the multiply-adds of the backbone alone."""
    return sum(layer.multiply_adds for layer in layers(spec, size_hw) if layer.part.startswith("backbone"))


def parameters(spec: DetectorSpec) -> int:
    """Return the number of trainable parameters."""
    return sum(layer.parameters for layer in layers(spec, (32, 32)))


def backbone_parameters(spec: DetectorSpec) -> int:
    """Return the number of trainable parameters of the backbone alone."""
    return sum(layer.parameters for layer in layers(spec, (32, 32)) if layer.part.startswith("backbone"))


def per_part(spec: DetectorSpec, size_hw: SizeHW) -> dict[str, int]:
    """Return multiply-adds by part: backbone.stem, backbone.s0.., neck, rpn, roi."""
    counts: Counter[str] = Counter()
    for layer in layers(spec, size_hw):
        counts[layer.part] += layer.multiply_adds
    return dict(counts)
