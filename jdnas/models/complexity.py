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

LayerKind = Literal["conv", "depthwise", "grouped", "deformable", "linear"]
SizeHW = tuple[int, int]
_KINDS: dict[int, LayerKind] = {0: "conv", 1: "depthwise"}


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer on one input: `height` and `width` are those of its output, `calls` how often it runs per image.

    `name` is the layer's module without the `.conv` of a convolution that has a norm. `group_width`: channels that each output of a
    convolution in groups reads (1: depthwise), or 0 where it reads all of them.
    """

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
    group_width: int = 0

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds per image."""
        return self.calls * self.height * self.width * self.kernel**2 * (self.group_width or self.in_width) * self.out_width

    @property
    def parameters(self) -> int:
        """Trainable parameters; 0 where the weights were counted at an earlier layer of the same name."""
        if self.shared:
            return 0
        return self.kernel**2 * (self.group_width or self.in_width) * self.out_width + self.out_width * (2 * self.norm + self.bias)


def _half(size_hw: SizeHW) -> SizeHW:
    return (size_hw[0] + 1) // 2, (size_hw[1] + 1) // 2


def _at(size_hw: SizeHW, stride: int) -> SizeHW:
    for _ in range(stride.bit_length() - 1):
        size_hw = _half(size_hw)
    return size_hw


@dataclass(frozen=True)
class _Place:
    """A block in its detector: what it reads, and the sizes of the maps before and after it."""

    spec: DetectorSpec
    stage: int
    position: int
    reads: int
    size: SizeHW
    small: SizeHW
    stride: int

    def conv(
        self, suffix: str, reads: int, writes: int, kernel: int = 1, stride: int = 1, *, size: SizeHW | None = None, group_width: int = 0,
        norm: bool = True, deformable: bool = False,
    ) -> LayerCost:  # fmt: skip
        kind: LayerKind = "deformable" if deformable else _KINDS.get(group_width, "grouped")
        name, part = f"backbone.stages.{self.stage}.{self.position}.{suffix}", f"backbone.s{self.stage}"
        hw = self.small if size is None else size
        return LayerCost(name, part, kind, reads, writes, kernel, stride, *hw, norm=norm, bias=not norm, group_width=group_width)


def _inverted(place: _Place) -> Iterator[LayerCost]:
    traits, stage = place.spec.traits, place.spec.stages[place.stage]
    inner = stage.inner[place.position]
    if (place.stage, place.position) != (0, 0):
        yield place.conv("expand", place.reads, inner, size=place.size)
    yield place.conv("depthwise", inner, inner, traits.kernels[place.stage], place.stride, group_width=1)
    if stage.squeeze:
        hidden = stage.squeeze[place.position]
        yield place.conv("squeeze.reduce", inner, hidden, size=(1, 1), norm=False)
        yield place.conv("squeeze.expand", hidden, inner, size=(1, 1), norm=False)
    yield place.conv("project", inner, stage.width)


def _residual(place: _Place) -> Iterator[LayerCost]:
    spec, traits, stage = place.spec, place.spec.traits, place.spec.stages[place.stage]
    inner, stride = stage.inner[place.position], place.stride
    if traits.block == "basic":
        yield place.conv("conv1", place.reads, inner, 3, stride)
        yield place.conv("conv2", inner, stage.width, 3)
    else:
        early, late = (stride, 1) if spec.stride_in_1x1 else (1, stride)
        deformable = place.stage in spec.deformable
        yield place.conv("conv1", place.reads, inner, 1, early, size=place.small if spec.stride_in_1x1 else place.size)
        yield place.conv("conv2", inner, inner, 3, late, group_width=traits.group_widths[place.stage], deformable=deformable)
        if deformable:
            yield place.conv("conv2.conv.offset", inner, 27 if spec.modulated else 18, 3, late, norm=False)
        yield place.conv("conv3", inner, stage.width)
    if place.position == 0 and not (place.stage == 0 and traits.tied_stem):
        yield place.conv("shortcut", place.reads, stage.width, 1, stride)


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
            small = _half(size) if stride == 2 else size
            yield from (_inverted if mbconv else _residual)(_Place(spec, index, position, reads, size, small, stride))
            size, reads = small, stage.width
    if spec.tail:
        yield LayerCost("backbone.tail", "backbone.tail", "conv", reads, spec.tail, 1, 1, *size, norm=True)


def _neck(spec: DetectorSpec, size: SizeHW) -> Iterator[LayerCost]:
    kinds = {"norm": spec.neck_norm, "bias": not spec.neck_norm}
    for level, (reads, stride) in enumerate(zip(spec.tap_widths, spec.head.read_strides, strict=True)):
        yield LayerCost(f"fpn.lateral.{level}", "neck", "conv", reads, spec.neck, 1, 1, *_at(size, stride), **kinds)
        yield LayerCost(f"fpn.output.{level}", "neck", "conv", spec.neck, spec.neck, 3, 1, *_at(size, stride), **kinds)


def _rpn(spec: DetectorSpec, size: SizeHW) -> Iterator[LayerCost]:
    head = spec.head
    names = ["rpn.conv", *(f"rpn.deeper.{depth}" for depth in range(head.rpn_convs - 1))]
    for level, stride in enumerate(head.strides):
        reads, hw, shared = spec.neck, _at(size, stride), level > 0
        for name in names:
            yield LayerCost(name, "rpn", "conv", reads, head.rpn_width, 3, 1, *hw, bias=True, shared=shared)
            reads = head.rpn_width
        for name, writes in (("rpn.objectness", head.anchors), ("rpn.deltas", 4 * head.anchors)):
            yield LayerCost(name, "rpn", "conv", reads, writes, 1, 1, *hw, bias=True, shared=shared)


def _box_head(spec: DetectorSpec, name: str) -> Iterator[LayerCost]:
    head, reads = spec.head, spec.neck
    for index, width in enumerate(head.convs):
        yield LayerCost(f"{name}.convs.{index}", "roi", "conv", reads, width, 3, 1, ROI_SIZE, ROI_SIZE, calls=head.proposals, norm=True)
        reads = width
    fcs = [("fc6", reads * ROI_SIZE**2, head.width), ("fc7", head.width, head.width)][: head.fcs]
    predictors = [("class_logits", spec.num_classes + 1), ("box_deltas", 4 * head.box_outputs(spec.num_classes))]
    for layer, reads, writes in (*fcs, *((layer, head.width, outputs) for layer, outputs in predictors)):
        yield LayerCost(f"{name}.{layer}", "roi", "linear", reads, writes, 1, 1, 1, 1, calls=head.proposals, bias=True)


def _heads(spec: DetectorSpec, size: SizeHW) -> Iterator[LayerCost]:
    yield from _neck(spec, size)
    yield from _rpn(spec, size)
    for name in ("box_head", *(f"cascade.{stage}" for stage in range(spec.head.box_heads - 1))):
        yield from _box_head(spec, name)


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
    """Return multiply-adds by part: backbone.stem, backbone.s0.., backbone.tail if there is one, neck, rpn, roi."""
    counts: Counter[str] = Counter()
    for layer in layers(spec, size_hw):
        counts[layer.part] += layer.multiply_adds
    return dict(counts)


def parameters_per_part(spec: DetectorSpec) -> dict[str, int]:
    """Return trainable parameters by part."""
    counts: Counter[str] = Counter()
    for layer in layers(spec, (32, 32)):
        counts[layer.part] += layer.parameters
    return dict(counts)
