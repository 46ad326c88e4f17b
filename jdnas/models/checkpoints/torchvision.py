"""torchvision's Faster R-CNN with FPN: the layout of its state dicts."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.checkpoints.mobile import mobilenet_names
from jdnas.models.checkpoints.names import resnet_rules, rules, translate, with_neck_norm
from jdnas.models.checkpoints.origin import Converted, Origin
from jdnas.models.checkpoints.reading import Archive
from jdnas.models.weights import shapes_of
from jdnas.spec import DetectorSpec, Head

NAME = "torchvision"
# Older files lack the inner `.0` of FPN and RPN convolutions; those of _v2 models have a norm at `.1`.
RULES = (
    *resnet_rules(r"backbone\.body\."),
    *rules(
        (r"backbone\.fpn\.inner_blocks\.(\d)\.1\.(\w+)", r"fpn.lateral.\1.norm.\2"),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.1\.(\w+)", r"fpn.output.\1.norm.\2"),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?(\w+)", r"fpn.lateral.\1.\2"),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?(\w+)", r"fpn.output.\1.\2"),
        (r"rpn\.head\.conv\.(?:0\.0\.)?(\w+)", r"rpn.conv.\1"),
        (r"rpn\.head\.conv\.(\d)\.0\.(\w+)", r"rpn.deeper.<\1-1>.\2"),
        (r"rpn\.head\.cls_logits\.(\w+)", r"rpn.objectness.\1"),
        (r"rpn\.head\.bbox_pred\.(\w+)", r"rpn.deltas.\1"),
        (r"roi_heads\.box_head\.(fc[67])\.(\w+)", r"box_head.\1.\2"),
        (r"roi_heads\.box_head\.(\d)\.0\.(\w+)", r"box_head.convs.\1.conv.\2"),
        (r"roi_heads\.box_head\.(\d)\.1\.(\w+)", r"box_head.convs.\1.norm.\2"),
        (r"roi_heads\.box_predictor\.cls_score\.(\w+)", r"box_head.class_logits.\1"),
        (r"roi_heads\.box_predictor\.bbox_pred\.(\w+)", r"box_head.box_deltas.\1"),
    ),
)
_OTHER_TASKS = ("roi_heads.mask_", "roi_heads.keypoint_")
_COCO = 91  # classes of the published weights, background and gaps included
_BODY = "backbone.body."
# fasterrcnn_mobilenet_v3_large_fpn: a pyramid of the last stage's first block, its tail, and a pooled level; all sizes on each.
MOBILE_HEAD = Head(strides=(32, 32, 64), anchor_sizes=(32, 32, 32), anchor_scales=(1.0, 2.0, 4.0, 8.0, 16.0), rpn_score_threshold=0.05)
MOBILE_EPS = 1e-5  # torchvision builds the detector's MobileNetV3 with PyTorch's default, unlike the classifier's


def with_named_layers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries with the fully connected layers of a box head that is a sequence, numbered by their places, as fc6 and fc7."""
    numbered = re.compile(r"roi_heads\.box_head\.(\d+)\.(weight|bias)")
    found = {name: numbered.fullmatch(name) for name in tensors}
    places = sorted({int(match[1]) for match in found.values() if match})
    return {
        f"roi_heads.box_head.fc{6 + places.index(int(match[1]))}.{match[2]}" if match else name: tensors[name]
        for name, match in found.items()
    }


def matches(names: Mapping[str, Tensor]) -> bool:
    """Tell whether these are entries of torchvision's Faster, Mask or Keypoint R-CNN."""
    return "roi_heads.box_predictor.cls_score.weight" in names and "rpn.head.cls_logits.weight" in names and any(
        name.startswith("backbone.body.") for name in names
    )  # fmt: skip


def convert(archive: Archive, config: Mapping[str, object] | None, norm_eps: float | None) -> Converted:
    """Translate names; nothing else differs, since our conventions are torchvision's."""
    found, head = with_named_layers(archive.tensors), Head()
    assumed: tuple[str, ...] = ()
    body: dict[str, Tensor] = {}
    if f"{_BODY}0.0.weight" in found:
        body, left = mobilenet_names(found, _BODY, with_tail=True)
        found = {name: found[name] for name in left}
        head, norm_eps = MOBILE_HEAD, MOBILE_EPS if norm_eps is None else norm_eps
        assumed = ("proposals scored below 0.05 are left out, as in torchvision's fasterrcnn_mobilenet_v3_large_fpn",)
    tensors, dropped, unknown = translate(found, RULES, _OTHER_TASKS)
    tensors = with_neck_norm(body | tensors)
    if norm_eps is None and _is_published_resnet50(archive.tensors):
        norm_eps = 0.0
        assumed = (
            "batch norm epsilon 0, which torchvision sets for its published ResNet-50 detector (say otherwise with --norm-eps 1e-5)",
        )
    origin = Origin(NAME, head=head, norm_eps=norm_eps, size_hw=(800, 1344), assumed=assumed)
    return Converted(origin, tensors, tuple(dropped), tuple(unknown))


def _is_published_resnet50(tensors: Mapping[str, Tensor]) -> bool:
    # The published COCO weights were trained with frozen norms (no counters), and torchvision computes them with epsilon 0.
    frozen = "backbone.body.layer3.5.bn3.running_var" in tensors and not any(name.endswith("num_batches_tracked") for name in tensors)
    return frozen and len(tensors["roi_heads.box_predictor.cls_score.bias"]) == _COCO


def state_from_torchvision(state: Mapping[str, Tensor], spec: DetectorSpec) -> dict[str, Tensor]:
    """Return the state of `build(spec)` that computes what torchvision's Faster R-CNN with these weights computes.

    Raises:
        CheckpointError: an entry has no counterpart, is missing or has another shape than `spec` asks for.
    """
    tensors, dropped, unknown = translate(with_named_layers(state), RULES, ())
    tensors = with_neck_norm(tensors)
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
