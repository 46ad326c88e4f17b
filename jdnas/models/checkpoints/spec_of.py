"""The spec of a detector, read from the shapes of its weights."""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.checkpoints.origin import Converted
from jdnas.spec import DetectorSpec, Head, Stage

_BLOCK = re.compile(r"backbone\.stages\.(\d+)\.(\d+)\.(.+)")
DEFAULT_NECK = 256

Blocks = list[list[dict[str, Tensor]]]  # by stage and position: tensors by their names within the block


def infer_spec(converted: Converted, *, num_classes: int) -> DetectorSpec:
    """Return the spec whose shapes are those of the converted tensors; `num_classes` holds where they have no class scores.

    A CheckpointError says what no spec describes.
    """
    tensors, origin = converted.tensors, converted.origin
    blocks = _blocks(tensors)
    family = _family(blocks)
    logits, neck = tensors.get("box_head.class_logits.weight"), tensors.get("fpn.lateral.0.weight")
    return DetectorSpec(
        family,
        stem=len(tensors["backbone.stem.conv.weight"]),
        stages=tuple(_stage(stage) for stage in blocks),
        num_classes=num_classes if logits is None else len(logits) - 1,
        neck=DEFAULT_NECK if neck is None else len(neck),
        head=_head(tensors, origin.head),
        stride_in_1x1=origin.stride_in_1x1 and family != "resnet_basic",
    )


def _blocks(tensors: Mapping[str, Tensor]) -> Blocks:
    found: dict[int, dict[int, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        match = _BLOCK.fullmatch(name)
        if match:
            found.setdefault(int(match[1]), {}).setdefault(int(match[2]), {})[match[3]] = tensor
    for index, stage in found.items():
        if sorted(stage) != list(range(len(stage))):
            raise CheckpointError(f"stage {index + 1} lacks blocks: it has {sorted(stage)}")
    if sorted(found) != list(range(len(found))) or "backbone.stem.conv.weight" not in tensors:
        raise CheckpointError(f"the backbone lacks its stem or a stage; it has stages {sorted(stage + 1 for stage in found)}")
    return [[found[i][j] for j in sorted(found[i])] for i in sorted(found)]


def _family(blocks: Blocks) -> str:
    first = blocks[0][0]
    if "depthwise.conv.weight" in first:
        return "efficientnet_lite"
    if "conv3.conv.weight" not in first:
        return "resnet_basic"
    inner, reads = len(first["conv1.conv.weight"]), first["conv2.conv.weight"].shape[1]
    if reads != inner:
        raise CheckpointError(
            f"its 3x3 convolutions work on groups of {reads} of {inner} channels (ResNeXt), which this version cannot read"
        )
    return "resnet_bottleneck"


def _stage(stage: list[dict[str, Tensor]]) -> Stage:
    last = next(name for name in ("project.conv.weight", "conv3.conv.weight", "conv2.conv.weight") if name in stage[0])
    inner = "depthwise.conv.weight" if last == "project.conv.weight" else "conv1.conv.weight"
    return Stage(len(stage[0][last]), tuple(len(block[inner]) for block in stage))


def _head(tensors: Mapping[str, Tensor], head: Head) -> Head:
    rpn, box, anchors = (tensors.get(name) for name in ("rpn.conv.weight", "box_head.fc6.weight", "rpn.objectness.weight"))
    if anchors is not None and len(anchors) != len(head.anchor_ratios):
        raise CheckpointError(f"it has {len(anchors)} anchors at each position where {len(head.anchor_ratios)} were expected")
    return replace(
        head,
        rpn_width=head.rpn_width if rpn is None else len(rpn),
        width=head.width if box is None else len(box),
    )
