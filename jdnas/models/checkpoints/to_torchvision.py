"""Our detectors as state dicts that torchvision's Faster R-CNN loads."""

from collections.abc import Mapping

from torch import Tensor

from jdnas.errors import ConfigError
from jdnas.models.checkpoints.names import renamed, rules
from jdnas.presets import preset
from jdnas.spec import DetectorSpec, Head

_RULES = rules(
    (r"backbone\.stem\.conv\.(\w+)", r"backbone.body.conv1.\1"),
    (r"backbone\.stem\.norm\.(\w+)", r"backbone.body.bn1.\1"),
    (r"backbone\.stages\.(\d)\.(\d+)\.conv(\d)\.conv\.(\w+)", r"backbone.body.layer<\1+1>.\2.conv\3.\4"),
    (r"backbone\.stages\.(\d)\.(\d+)\.conv(\d)\.norm\.(\w+)", r"backbone.body.layer<\1+1>.\2.bn\3.\4"),
    (r"backbone\.stages\.(\d)\.(\d+)\.shortcut\.conv\.(\w+)", r"backbone.body.layer<\1+1>.\2.downsample.0.\3"),
    (r"backbone\.stages\.(\d)\.(\d+)\.shortcut\.norm\.(\w+)", r"backbone.body.layer<\1+1>.\2.downsample.1.\3"),
    (r"fpn\.lateral\.(\d)\.(\w+)", r"backbone.fpn.inner_blocks.\1.0.\2"),
    (r"fpn\.output\.(\d)\.(\w+)", r"backbone.fpn.layer_blocks.\1.0.\2"),
    (r"rpn\.conv\.(\w+)", r"rpn.head.conv.0.0.\1"),
    (r"rpn\.objectness\.(\w+)", r"rpn.head.cls_logits.\1"),
    (r"rpn\.deltas\.(\w+)", r"rpn.head.bbox_pred.\1"),
    (r"box_head\.(fc[67])\.(\w+)", r"roi_heads.box_head.\1.\2"),
    (r"box_head\.class_logits\.(\w+)", r"roi_heads.box_predictor.cls_score.\1"),
    (r"box_head\.box_deltas\.(\w+)", r"roi_heads.box_predictor.bbox_pred.\1"),
)
_CONVENTIONS = ("round_anchors", "anchor_offset", "roi_aligned", "roi_sampling")
_RESNETS = {"r18": "resnet18", "r34": "resnet34", "r50": "resnet50", "r101": "resnet101", "r152": "resnet152"}
# Arguments of torchvision's FasterRCNN that hold a constant of our head.
_ARGUMENTS = {
    "candidates": "rpn_pre_nms_top_n_test", "proposals": "rpn_post_nms_top_n_test", "train_candidates": "rpn_pre_nms_top_n_train",
    "train_proposals": "rpn_post_nms_top_n_train", "rpn_nms_iou": "rpn_nms_thresh", "anchor_samples": "rpn_batch_size_per_image",
    "roi_samples": "box_batch_size_per_image", "score_threshold": "box_score_thresh", "nms_iou": "box_nms_thresh",
    "detections": "box_detections_per_img",
}  # fmt: skip


def state_to_torchvision(state: Mapping[str, Tensor], spec: DetectorSpec) -> dict[str, Tensor]:
    """Return `state` under torchvision's names; a ConfigError says what of `spec` torchvision cannot compute."""
    _check(spec)
    theirs = {}
    for name, tensor in state.items():
        new = renamed(name, _RULES)
        if new is None:
            raise ConfigError(f"{name} has no counterpart in torchvision's Faster R-CNN")
        theirs[new] = tensor
    return theirs


def torchvision_call(spec: DetectorSpec) -> str | None:
    """Return the Python expression that builds the torchvision model of `spec`, or None where no constructor has its widths."""
    plain = next((name for name in _RESNETS if _same_body(spec, name)), None)
    if plain is None or spec.neck != 256 or (spec.head.rpn_width, spec.head.width) != (spec.neck, Head().width):
        return None
    usual = Head()
    given = {
        argument: getattr(spec.head, name) for name, argument in _ARGUMENTS.items() if getattr(spec.head, name) != getattr(usual, name)
    }
    arguments = [f"num_classes={spec.num_classes + 1}", *(f"{argument}={value}" for argument, value in given.items())]
    if (spec.head.anchor_sizes, spec.head.anchor_ratios) != (usual.anchor_sizes, usual.anchor_ratios):
        sizes = tuple((size,) for size in spec.head.anchor_sizes)
        ratios = (spec.head.anchor_ratios,) * len(sizes)
        arguments.append(f"rpn_anchor_generator=torchvision.models.detection.anchor_utils.AnchorGenerator({sizes}, {ratios})")
    backbone = (
        f"torchvision.models.detection.backbone_utils.resnet_fpn_backbone(backbone_name={_RESNETS[plain]!r}, weights=None, "
        "norm_layer=torch.nn.BatchNorm2d)"
    )
    return f"torchvision.models.detection.FasterRCNN({backbone}, {', '.join(arguments)})"


def _same_body(spec: DetectorSpec, name: str) -> bool:
    other = preset(name, spec.num_classes)
    return (spec.family, spec.stem, spec.stages) == (other.family, other.stem, other.stages)


def _check(spec: DetectorSpec) -> None:
    usual = Head()
    foreign = [f"{name}={getattr(spec.head, name)}" for name in _CONVENTIONS if getattr(spec.head, name) != getattr(usual, name)]
    foreign += ["stride_in_1x1=True"] if spec.stride_in_1x1 else []
    if not spec.family.startswith("resnet"):
        raise ConfigError(f"a {spec.family} detector cannot be written for torchvision; ResNets can")
    if foreign:
        raise ConfigError(
            f"torchvision's Faster R-CNN has no {', '.join(foreign)}, so it would not compute what this detector does; train it on with "
            "torchvision's conventions first, or export ONNX"
        )
