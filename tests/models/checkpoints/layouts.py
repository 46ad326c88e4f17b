"""State dicts with the entry names and shapes of other projects, from their public model definitions."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

Shapes = Iterator[tuple[str, tuple[int, ...]]]
NORM = ("weight", "bias", "running_mean", "running_var")
R50 = (3, 4, 6, 3)
FULL = 64
# Variances of weights times their inputs: small deltas, scores that differ, a pyramid of about unit scale.
GAINS = (("offset", 0.2), ("lateral", 0.01), ("cls", 4.0), ("objectness", 4.0), ("reg", 0.2), ("bbox_pred", 0.2), ("deltas", 0.2))


def norm(name: str, width: int, *, counter: bool = True) -> Shapes:
    for part in NORM:
        yield f"{name}.{part}", (width,)
    if counter:
        yield f"{name}.num_batches_tracked", ()


def plain(name: str, *shape: int) -> Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def resnet(
    prefix: str, depths: tuple[int, ...], width: int, *, groups: int = 1, group_width: int | None = None, deformable: tuple[int, ...] = (),
    offsets: int = 27,
) -> Shapes:  # fmt: skip
    """Bottleneck ResNet of torchvision, timm and mmdetection: conv1, bn1, layer1.0.conv1, ..., downsample.0, downsample.1.

    With mmdetection's `dcn`, the 3x3 convolutions of some stages have conv_offset inside.
    """
    yield f"{prefix}conv1.weight", (width, 3, 7, 7)
    yield from norm(f"{prefix}bn1", width)
    reads = width
    for stage, depth in enumerate(depths):
        out = 4 * width * 2**stage
        inner = width * 2**stage if group_width is None else groups * group_width * 2**stage
        for block in range(depth):
            name = f"{prefix}layer{stage + 1}.{block}"
            for index, shape in enumerate(((inner, reads, 1, 1), (inner, inner // groups, 3, 3), (out, inner, 1, 1)), start=1):
                yield f"{name}.conv{index}.weight", shape
                yield from norm(f"{name}.bn{index}", shape[0])
            if stage in deformable:
                yield from plain(f"{name}.conv2.conv_offset", offsets, inner, 3, 3)
            if block == 0:
                yield f"{name}.downsample.0.weight", (out, reads, 1, 1)
                yield from norm(f"{name}.downsample.1", out)
            reads = out


def mmdetection(
    depths: tuple[int, ...] = R50, *, width: int = FULL, neck: int = 256, fc: int = 1024, classes: int = 80, groups: int = 1,
    group_width: int | None = None, deformable: tuple[int, ...] = (), offsets: int = 27, cascade: bool = False,
) -> Shapes:  # fmt: skip
    """mmdet/models: ResNet or ResNeXt, FPN (num_outs=5, no extra convolutions), RPNHead, Shared2FCBBoxHead, or three in a cascade."""
    yield from resnet("backbone.", depths, width, groups=groups, group_width=group_width, deformable=deformable, offsets=offsets)
    for level in range(4):
        yield from plain(f"neck.lateral_convs.{level}.conv", neck, 4 * width * 2**level, 1, 1)
        yield from plain(f"neck.fpn_convs.{level}.conv", neck, neck, 3, 3)
    yield from plain("rpn_head.rpn_conv", neck, neck, 3, 3)
    yield from plain("rpn_head.rpn_cls", 3, neck, 1, 1)
    yield from plain("rpn_head.rpn_reg", 12, neck, 1, 1)
    for head in ("0.", "1.", "2.") if cascade else ("",):
        yield from plain(f"roi_head.bbox_head.{head}fc_cls", classes + 1, fc)
        yield from plain(f"roi_head.bbox_head.{head}fc_reg", 4 if cascade else 4 * classes, fc)
        yield from plain(f"roi_head.bbox_head.{head}shared_fcs.0", fc, neck * 49)
        yield from plain(f"roi_head.bbox_head.{head}shared_fcs.1", fc, fc)


def detectron2(
    depths: tuple[int, ...] = R50, *, width: int = FULL, neck: int = 256, fc: int = 1024, classes: int = 80, groups: int = 1,
    group_width: int | None = None, deformable: tuple[int, ...] = (), offsets: int = 27, cascade: bool = False,
) -> Shapes:  # fmt: skip
    """detectron2/modeling: build_resnet_fpn_backbone with FrozenBN, StandardRPNHead, FastRCNNConvFCHead, FastRCNNOutputLayers.

    CascadeROIHeads has three of the last two, and one box for all classes.
    """
    body = "backbone.bottom_up."
    for level, reads in zip(range(5, 1, -1), (32, 16, 8, 4), strict=True):
        yield from plain(f"backbone.fpn_lateral{level}", neck, reads * width, 1, 1)
        yield from plain(f"backbone.fpn_output{level}", neck, neck, 3, 3)
    yield f"{body}stem.conv1.weight", (width, 3, 7, 7)
    yield from norm(f"{body}stem.conv1.norm", width, counter=False)
    reads = width
    for stage, depth in enumerate(depths):
        out = 4 * width * 2**stage
        inner = width * 2**stage if group_width is None else groups * group_width * 2**stage
        for block in range(depth):
            name = f"{body}res{stage + 2}.{block}"
            if block == 0:
                yield f"{name}.shortcut.weight", (out, reads, 1, 1)
                yield from norm(f"{name}.shortcut.norm", out, counter=False)
            for index, shape in enumerate(((inner, reads, 1, 1), (inner, inner // groups, 3, 3), (out, inner, 1, 1)), start=1):
                yield f"{name}.conv{index}.weight", shape
                yield from norm(f"{name}.conv{index}.norm", shape[0], counter=False)
            if stage in deformable:
                yield from plain(f"{name}.conv2_offset", offsets, inner, 3, 3)
            reads = out
    rpn = "proposal_generator.rpn_head"
    yield from plain(f"{rpn}.conv", neck, neck, 3, 3)
    yield from plain(f"{rpn}.objectness_logits", 3, neck, 1, 1)
    yield from plain(f"{rpn}.anchor_deltas", 12, neck, 1, 1)
    for head in ("0.", "1.", "2.") if cascade else ("",):
        yield from plain(f"roi_heads.box_head.{head}fc1", fc, neck * 49)
        yield from plain(f"roi_heads.box_head.{head}fc2", fc, fc)
        yield from plain(f"roi_heads.box_predictor.{head}cls_score", classes + 1, fc)
        yield from plain(f"roi_heads.box_predictor.{head}bbox_pred", 4 if cascade else 4 * classes, fc)


def empty(shapes: Shapes) -> dict[str, Tensor]:
    """Zeros that take no memory."""
    return {name: torch.zeros((), dtype=torch.int64 if name.endswith("tracked") else None).expand(shape) for name, shape in shapes}


def trained(shapes: Shapes, *, seed: int = 0, input_std: float = 1.0) -> dict[str, Tensor]:
    """Random weights that keep activations in scale and find many boxes; the stem reads values of deviation `input_std`."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes:
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) > 1:
            gain = next((gain for part, gain in GAINS if part in name), 2.0)
            state[name] = torch.randn(shape, generator=generator) * math.sqrt(gain / math.prod(shape[1:]))
        elif name.endswith("running_var") or (name.endswith(".weight") and ("bn" in name or "norm" in name or "downsample" in name)):
            state[name] = torch.rand(shape, generator=generator) * 0.6 + 0.5
        else:
            state[name] = torch.randn(shape, generator=generator) * 0.1
    for name in state:
        if name.endswith(("conv1.weight", "stem.conv1.weight")) and state[name].shape[-1] == 7:
            state[name] /= input_std
    return state
