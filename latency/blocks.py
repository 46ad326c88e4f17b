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
from jdnas.spec import ROI_SIZE, DetectorSpec

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
    """Return the block that stands for everything that is not a layer with weights."""
    head = spec.head
    return Block(REST, (*size_hw, head.candidates, head.proposals, head.detections, spec.neck, spec.num_classes))


def layer_block(layer: LayerCost) -> Block:
    """Return the block that a layer is; a ConfigError refuses deformable convolutions, which no table has."""
    if layer.kind == "deformable":
        raise ConfigError(f"{layer.name} is a deformable convolution, whose latency no table has; choose --cost multiply_adds")
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


def rounded(width: int, step: int) -> int:
    """Return the width that a runtime computing `step` channels at a time pays for; images (3 channels) stay as they are."""
    return width if width <= 3 else -(-width // step) * step


def layer_features(family: str, sizes: tuple[int, ...], step: int) -> tuple[float, ...]:
    """Return what the time of a layer grows with: 1, multiply-adds, activations read and written, weights read."""
    kernel, stride = kernel_and_stride(family)
    reads, writes, height, width, rows = sizes
    reads, writes, positions = rounded(reads, step), rounded(writes, step), height * width * rows
    fan_in = kernel**2 * reads_per_output(family, reads)
    return 1.0, float(positions * fan_in * writes), float(positions * (stride**2 * reads + writes)), float(fan_in * writes)


def rest_features(family: str, sizes: tuple[int, ...], step: int) -> tuple[float, ...]:
    """Return what the time of the rest grows with: 1, anchors, NMS pairs, RoI samples, pyramid entries, box decoding."""
    height, width, candidates, proposals, detections, neck, classes = sizes
    anchors = [3 * -(-height // stride) * -(-width // stride) for stride in _LEVEL_STRIDES]
    pairs = sum(min(candidates, count) ** 2 for count in anchors)
    samples = proposals * ROI_SIZE**2 * _SAMPLES_PER_BIN * rounded(neck, step)
    return (1.0, float(sum(anchors)), float(pairs), float(samples), float(sum(anchors) * rounded(neck, step)),
            float(proposals * (classes + 1)))  # fmt: skip


def features_of(family: str) -> Callable[[str, tuple[int, ...], int], tuple[float, ...]]:
    """Return the feature function of a family."""
    return rest_features if family == REST else layer_features
