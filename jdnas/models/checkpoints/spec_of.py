"""The spec of a detector, read from the shapes of its weights."""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from jdnas.errors import CheckpointError, ConfigError
from jdnas.families import FAMILIES
from jdnas.models.checkpoints.origin import Converted
from jdnas.spec import DetectorSpec, Head, Stage

_BLOCK = re.compile(r"backbone\.stages\.(\d+)\.(\d+)\.(.+)")
_BOX_CONV = re.compile(r"box_head\.convs\.\d+\.conv\.weight")
_OFFSET, _SHIFTS, _SCALES = "conv2.conv.offset.weight", 18, 9
DEFAULT_NECK = 256

Blocks = list[list[dict[str, Tensor]]]  # by stage and position: tensors by their names within the block


def infer_spec(converted: Converted, *, num_classes: int) -> DetectorSpec:
    """Return the spec whose shapes are those of the converted tensors; `num_classes` holds where they have no class scores.

    A CheckpointError says what no spec describes.
    """
    tensors, origin = converted.tensors, converted.origin
    blocks = _blocks(tensors)
    family = origin.family or _family(blocks)
    deformable, modulated = _deformation(blocks)
    try:
        return DetectorSpec(
            family,
            stem=len(tensors["backbone.stem.conv.weight"]),
            stages=tuple(_stage(stage) for stage in blocks),
            num_classes=_rows(tensors, "box_head.class_logits.weight", num_classes + 1) - 1,
            neck=_rows(tensors, "fpn.lateral.0.weight", _rows(tensors, "fpn.lateral.0.conv.weight", DEFAULT_NECK)),
            head=_head(tensors, origin.head),
            stride_in_1x1=origin.stride_in_1x1 and family != "resnet_basic",
            tail=_rows(tensors, "backbone.tail.conv.weight", 0),
            neck_norm="fpn.lateral.0.norm.weight" in tensors,
            deformable=deformable,
            modulated=modulated,
        )
    except ConfigError as error:
        raise CheckpointError(f"its shapes are those of no detector here: {error}") from error


def _rows(tensors: Mapping[str, Tensor], name: str, default: int) -> int:
    return len(tensors[name]) if name in tensors else default


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
        return "mobilenet_v3" if any("squeeze.reduce.weight" in block for stage in blocks for block in stage) else "mobilenet_v2"
    if "conv3.conv.weight" not in first:
        return "resnet_basic"
    middles = [stage[0]["conv2.conv.weight"] for stage in blocks]
    known = {name: traits.group_widths for name, traits in FAMILIES.items() if traits.block == "bottleneck"}
    for name, widths in known.items():  # the plain family first, which a single group equals
        if all(middle.shape[1] == (width or len(middle)) for middle, width in zip(middles, widths, strict=True)):
            return name
    groups = [middle.shape[1] for middle in middles]
    raise CheckpointError(f"its 3x3 convolutions work on groups of {groups} channels, which no family has; known: {sorted(known.values())}")


def _deformation(blocks: Blocks) -> tuple[tuple[int, ...], bool]:
    """Return the stages with deformable convolutions, and whether those scale their samples."""
    offsets = {index: stage[0][_OFFSET] for index, stage in enumerate(blocks) if _OFFSET in stage[0]}
    rows = {len(offset) for offset in offsets.values()}
    if not rows <= {_SHIFTS} and not rows <= {_SHIFTS + _SCALES}:
        raise CheckpointError(f"its deformable convolutions predict {sorted(rows)} values; 18 (shifts) or 27 (with scales) can be read")
    return tuple(offsets), rows == {_SHIFTS + _SCALES}


def _stage(stage: list[dict[str, Tensor]]) -> Stage:
    last = next(name for name in ("project.conv.weight", "conv3.conv.weight", "conv2.conv.weight") if name in stage[0])
    inner = "depthwise.conv.weight" if last == "project.conv.weight" else "conv1.conv.weight"
    squeeze = "squeeze.reduce.weight"
    return Stage(len(stage[0][last]), tuple(len(block[inner]) for block in stage), tuple(len(b[squeeze]) for b in stage if squeeze in b))


def _head(tensors: Mapping[str, Tensor], head: Head) -> Head:
    anchors = _rows(tensors, "rpn.objectness.weight", head.anchors)
    if anchors != head.anchors:
        raise CheckpointError(f"it has {anchors} anchors at each position where {head.anchors} were expected")
    convs = [tensors[name] for name in sorted(name for name in tensors if _BOX_CONV.fullmatch(name))]
    has_box_head = "box_head.fc6.weight" in tensors
    return replace(
        head,
        rpn_width=_rows(tensors, "rpn.conv.weight", head.rpn_width),
        rpn_convs=1 + sum(name.startswith("rpn.deeper.") and name.endswith(".weight") for name in tensors),
        width=_rows(tensors, "box_head.fc6.weight", head.width),
        convs=tuple(len(conv) for conv in convs),
        fcs=1 if has_box_head and "box_head.fc7.weight" not in tensors else head.fcs,
    )
