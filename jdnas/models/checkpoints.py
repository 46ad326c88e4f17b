"""Weights of other projects' detectors under our names."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.detector import build
from jdnas.spec import DetectorSpec

# In order: the first pattern that matches renames. Older torchvision files lack the inner `.0` of FPN and RPN convolutions.
_TORCHVISION = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"backbone\.body\.conv1\.(\w+)", r"backbone.stem.conv.\1"),
        (r"backbone\.body\.bn1\.(\w+)", r"backbone.stem.norm.\1"),
        (r"backbone\.body\.layer(\d)\.(\d+)\.conv(\d)\.(\w+)", r"backbone.stages.<\1>.\2.conv\3.conv.\4"),
        (r"backbone\.body\.layer(\d)\.(\d+)\.bn(\d)\.(\w+)", r"backbone.stages.<\1>.\2.conv\3.norm.\4"),
        (r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.0\.(\w+)", r"backbone.stages.<\1>.\2.shortcut.conv.\3"),
        (r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.1\.(\w+)", r"backbone.stages.<\1>.\2.shortcut.norm.\3"),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?(\w+)", r"fpn.lateral.\1.\2"),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?(\w+)", r"fpn.output.\1.\2"),
        (r"rpn\.head\.conv\.(?:0\.0\.)?(\w+)", r"rpn.conv.\1"),
        (r"rpn\.head\.cls_logits\.(\w+)", r"rpn.objectness.\1"),
        (r"rpn\.head\.bbox_pred\.(\w+)", r"rpn.deltas.\1"),
        (r"roi_heads\.box_head\.(fc[67])\.(\w+)", r"box_head.\1.\2"),
        (r"roi_heads\.box_predictor\.cls_score\.(\w+)", r"box_head.class_logits.\1"),
        (r"roi_heads\.box_predictor\.bbox_pred\.(\w+)", r"box_head.box_deltas.\1"),
    )
)


def _renamed(name: str) -> str | None:
    for pattern, replacement in _TORCHVISION:
        found = pattern.fullmatch(name)
        if found:
            # torchvision counts the stages of a ResNet from 1.
            return re.sub(r"<(\d)>", lambda stage: str(int(stage[1]) - 1), found.expand(replacement))
    return None


def state_from_torchvision(state: Mapping[str, Tensor], spec: DetectorSpec) -> dict[str, Tensor]:
    """Return the state of `build(spec)` that computes what torchvision's Faster R-CNN with a ResNet FPN backbone computes.

    Raises:
        CheckpointError: an entry has no counterpart, is missing or has another shape than `spec` asks for.
    """
    renamed = {_renamed(name) or f"?{name}": tensor for name, tensor in state.items()}
    expected = build(spec, device="meta").state_dict()
    for name in expected:
        if name.endswith("num_batches_tracked"):  # frozen batch normalization has none
            renamed.setdefault(name, torch.zeros((), dtype=torch.int64))
    unknown = [name.removeprefix("?") for name in renamed if name not in expected]
    missing = [name for name in expected if name not in renamed]
    reshaped = [
        f"{name} {tuple(renamed[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in renamed and renamed[name].shape != tensor.shape
    ]
    problems = [f"{kind} {', '.join(names[:3])}" for kind, names in
                (("unknown", unknown), ("missing", missing), ("shape of", reshaped)) if names]  # fmt: skip
    if problems:
        raise CheckpointError(f"torchvision weights do not fit this spec: {'; '.join(problems)}. Give the spec of the model they come from")
    return {name: renamed[name] for name in expected}


_LITE_LAYERS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def state_from_efficientnet_lite(state: Mapping[str, Tensor], spec: DetectorSpec) -> dict[str, Tensor]:
    """Return the backbone entries of `build(spec)` held by an EfficientNet-Lite classifier in the layout of efficientnet-pytorch.

    Blocks are numbered through in such files; the classifier's head has no counterpart.

    Raises:
        CheckpointError: a backbone entry is missing or has another shape than `spec` asks for.
    """
    places = [(i, j) for i, stage in enumerate(spec.stages) for j in range(stage.depth)]
    renamed = {}
    for name, tensor in state.items():
        first, *rest = name.split(".")
        if first in ("_conv_stem", "_bn0"):
            renamed[f"backbone.stem.{'conv' if first == '_conv_stem' else 'norm'}.{rest[-1]}"] = tensor
        elif first == "_blocks" and int(rest[0]) < len(places):
            stage, block = places[int(rest[0])]
            renamed[f"backbone.stages.{stage}.{block}.{_LITE_LAYERS[rest[1]]}.{rest[2]}"] = tensor
    expected = {name: t for name, t in build(spec, device="meta").state_dict().items() if name.startswith("backbone.")}
    wrong = [name for name, tensor in expected.items() if name not in renamed or renamed[name].shape != tensor.shape]
    if wrong:
        raise CheckpointError(f"EfficientNet-Lite weights do not fit this spec: {len(wrong)} entries differ (first: {wrong[0]})")
    return {name: renamed[name] for name in expected}
