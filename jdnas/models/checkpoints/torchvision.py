"""torchvision's Faster R-CNN with FPN: the layout of its state dicts."""

from collections.abc import Mapping

import torch
from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.checkpoints.names import resnet_rules, rules, translate
from jdnas.models.checkpoints.origin import Converted, Origin
from jdnas.models.checkpoints.reading import Archive
from jdnas.models.weights import shapes_of
from jdnas.spec import DetectorSpec

NAME = "torchvision"
# Older files lack the inner `.0` of FPN and RPN convolutions.
RULES = (
    *resnet_rules(r"backbone\.body\."),
    *rules(
        (r"backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?(\w+)", r"fpn.lateral.\1.\2"),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?(\w+)", r"fpn.output.\1.\2"),
        (r"rpn\.head\.conv\.(?:0\.0\.)?(\w+)", r"rpn.conv.\1"),
        (r"rpn\.head\.cls_logits\.(\w+)", r"rpn.objectness.\1"),
        (r"rpn\.head\.bbox_pred\.(\w+)", r"rpn.deltas.\1"),
        (r"roi_heads\.box_head\.(fc[67])\.(\w+)", r"box_head.\1.\2"),
        (r"roi_heads\.box_predictor\.cls_score\.(\w+)", r"box_head.class_logits.\1"),
        (r"roi_heads\.box_predictor\.bbox_pred\.(\w+)", r"box_head.box_deltas.\1"),
    ),
)
_OTHER_TASKS = ("roi_heads.mask_", "roi_heads.keypoint_")
_COCO = 91  # classes of the published weights, background and gaps included


def matches(names: Mapping[str, Tensor]) -> bool:
    """Tell whether these are entries of torchvision's Faster, Mask or Keypoint R-CNN."""
    return "roi_heads.box_predictor.cls_score.weight" in names and "rpn.head.cls_logits.weight" in names and any(
        name.startswith("backbone.body.") for name in names
    )  # fmt: skip


def convert(archive: Archive, config: Mapping[str, object] | None, norm_eps: float | None) -> Converted:
    """Translate names; nothing else differs, since our conventions are torchvision's."""
    tensors, dropped, unknown = translate(archive.tensors, RULES, _OTHER_TASKS)
    assumed: tuple[str, ...] = ()
    if norm_eps is None and _is_published_resnet50(archive.tensors):
        norm_eps = 0.0
        assumed = (
            "batch norm epsilon 0, which torchvision sets for its published ResNet-50 detector (say otherwise with --norm-eps 1e-5)",
        )
    size_hw = (800, 1344)
    return Converted(Origin(NAME, norm_eps=norm_eps, size_hw=size_hw, assumed=assumed), tensors, tuple(dropped), tuple(unknown))


def _is_published_resnet50(tensors: Mapping[str, Tensor]) -> bool:
    # The published COCO weights were trained with frozen norms (no counters), and torchvision computes them with epsilon 0.
    frozen = "backbone.body.layer3.5.bn3.running_var" in tensors and not any(name.endswith("num_batches_tracked") for name in tensors)
    return frozen and len(tensors["roi_heads.box_predictor.cls_score.bias"]) == _COCO


def state_from_torchvision(state: Mapping[str, Tensor], spec: DetectorSpec) -> dict[str, Tensor]:
    """Return the state of `build(spec)` that computes what torchvision's Faster R-CNN with these weights computes.

    Raises:
        CheckpointError: an entry has no counterpart, is missing or has another shape than `spec` asks for.
    """
    tensors, dropped, unknown = translate(state, RULES, ())
    expected = shapes_of(spec)
    for name in expected:
        if name.endswith("num_batches_tracked"):  # frozen batch normalization has none
            tensors.setdefault(name, torch.zeros((), dtype=torch.int64))
    unknown += [name for name in tensors if name not in expected]
    missing = [name for name in expected if name not in tensors]
    reshaped = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    problems = [f"{kind} {', '.join(names[:3])}" for kind, names in
                (("unknown", unknown), ("missing", missing), ("shape of", reshaped)) if names]  # fmt: skip
    if problems:
        raise CheckpointError(f"torchvision weights do not fit this spec: {'; '.join(problems)}. Give the spec of the model they come from")
    return {name: tensors[name] for name in expected}
