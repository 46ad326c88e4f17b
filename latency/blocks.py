"""What a detector costs is the sum of its fused blocks: which blocks a spec runs, and what their time depends on.

A block is a family and its sizes. Families of layers are named like `conv 3x3/2`, or `grouped8 3x3/2` for groups of 8 channels;
their sizes are (reads, writes, output height, output width, rows), where rows is the number of vectors that a fully connected layer
maps. The family `rest` is all
that is neither convolution nor fully connected layer: proposals, NMS, RoIAlign, decoding and what glues the layers.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from jdnas.errors import ConfigError
from jdnas.models.complexity import LayerCost, layers
from jdnas.spec import ROI_SIZE, DetectorSpec, Head

REST = "rest"
Floats = np.ndarray[Any, np.dtype[np.float64]]
SizeHW = tuple[int, int]
_SAMPLES_PER_BIN = 4
_LEVEL_STRIDES = (4, 8, 16, 32, 64)
_LAST_LAYERS = {"basic": "conv2", "bottleneck": "conv3", "mbconv": "project"}


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """A unit whose latency is measured: a family and the sizes that its time depends on."""

    family: str
    sizes: tuple[int, ...]


def layer_family(kind: str, kernel: int, stride: int) -> str:
    """Return the name of a family of layers."""
    return kind if kind == "linear" else f"{kind} {kernel}x{kernel}/{stride}"


def kernel_and_stride(family: str) -> tuple[int, int]:
    """Return kernel and stride of a family of convolutions; (1, 1) for fully connected layers."""
    if family == "linear":
        return 1, 1
    sides, stride = family.split(" ")[1].split("/")
    return int(sides.split("x")[0]), int(stride)


def reads_per_output(family: str, reads: int) -> int:
    """Return how many of `reads` channels each output of a family of layers reads."""
    kind = family.split(" ")[0]
    if kind == "depthwise":
        return 1
    return int(kind.removeprefix("grouped")) if kind.startswith("grouped") else reads


def rest_block(spec: DetectorSpec, size_hw: SizeHW) -> Block:
    """Return the block that stands for everything that is not a layer with weights; a ConfigError refuses RoIAlign that no table has."""
    head = spec.head
    if head.roi_sampling != Head().roi_sampling:
        raise ConfigError(
            f"the detector pools RoIs with roi_sampling={head.roi_sampling}, whose latency no table has; train it to do with "
            f"--set model.roi_sampling={Head().roi_sampling}, or choose --set cost=multiply_adds"
        )
    if (head.kind, head.strides, head.anchors) != (Head().kind, Head().strides, Head().anchors):
        raise ConfigError(
            f"latency tables know one box head and {Head().anchors} anchors at strides {Head().strides}, not a {head.kind} head with "
            f"{head.anchors} at {head.strides}; choose --set cost=multiply_adds"
        )
    return Block(REST, (*size_hw, head.candidates, head.proposals, head.detections, spec.neck, spec.num_classes))


def layer_block(layer: LayerCost) -> Block:
    """Return the block that a layer is; a ConfigError refuses deformable convolutions, which no table has."""
    if layer.kind == "deformable":
        raise ConfigError(f"{layer.name} is a deformable convolution, whose latency no table has; choose --set cost=multiply_adds")
    kind = f"grouped{layer.group_width}" if layer.kind == "grouped" else layer.kind
    family = layer_family(kind, layer.kernel, layer.stride)
    return Block(family, (layer.in_width, layer.out_width, layer.height, layer.width, layer.calls))


def fuses_addition(spec: DetectorSpec, layer: LayerCost) -> bool:
    """Tell whether a shortcut is added to the output of a layer, which runtimes do within the layer."""
    if not layer.name.startswith("backbone.stages.") or not layer.name.endswith(f".{_LAST_LAYERS.get(spec.traits.block)}"):
        return False
    first = layer.name.split(".")[3] == "0"
    return spec.traits.block != "mbconv" or not first


@lru_cache(maxsize=4096)
def blocks_of(spec: DetectorSpec, size_hw: SizeHW) -> tuple[tuple[Block, int], ...]:
    """Return every block that inference on one image of `size_hw` runs, with how often it runs."""
    counts = Counter(layer_block(layer) for layer in layers(spec, size_hw))
    counts[rest_block(spec, size_hw)] += 1
    return tuple(counts.items())


def rounded(widths: Floats, step: int) -> Floats:
    """Return the widths that a runtime computing `step` channels at a time pays for; images (3 channels) stay as they are."""
    return np.where(widths <= 3, widths, np.ceil(widths / step) * step)


def multiply_adds_of(block: Block) -> float:
    """Return the multiply-adds of one run of a layer's block."""
    return float(layer_features(block.family, np.array([block.sizes], float), 1)[0, 1])


def layer_features(family: str, sizes: Floats, step: int) -> Floats:
    """Return what the time of layers grows with: 1, multiply-adds, activations read and written, weights read.

    `sizes` `[N, 5]` are those of blocks, the result is `[N, 4]`.
    """
    kernel, stride = kernel_and_stride(family)
    reads, writes = (rounded(sizes[:, column], step) for column in (0, 1))
    positions = sizes[:, 2:].prod(1)
    group = reads_per_output(family, 0)
    fan_in = kernel**2 * (np.full_like(reads, group) if group else reads)
    ones = np.ones(len(sizes))
    return np.stack((ones, positions * fan_in * writes, positions * (stride**2 * reads + writes), fan_in * writes), 1)


def rest_features(family: str, sizes: Floats, step: int) -> Floats:
    """Return what the time of the rest grows with: 1, anchors, NMS pairs, RoI samples, pyramid entries, box decoding.

    `sizes` `[N, 7]` are those of rest blocks, the result is `[N, 6]`.
    """
    height, width, candidates, proposals, _, neck, classes = sizes.T
    anchors = [3 * np.ceil(height / stride) * np.ceil(width / stride) for stride in _LEVEL_STRIDES]
    paid, total = rounded(neck, step), np.sum(anchors, axis=0)
    pairs = np.sum([np.minimum(candidates, count) ** 2 for count in anchors], axis=0)
    samples = proposals * ROI_SIZE**2 * _SAMPLES_PER_BIN * paid
    return np.stack((np.ones(len(sizes)), total, pairs, samples, total * paid, proposals * (classes + 1)), 1)


def features_of(family: str) -> Callable[[str, Floats, int], Floats]:
    """Return the feature function of a family."""
    return rest_features if family == REST else layer_features
