"""Our detectors as state dicts that torchvision's Faster R-CNN loads."""

from collections.abc import Mapping

from torch import Tensor

from jdnas.errors import ConfigError
from jdnas.models.checkpoints.folding import with_eps
from jdnas.models.checkpoints.names import Rules, renamed, rules
from jdnas.models.checkpoints.torchvision import MOBILE_EPS, MOBILE_HEAD
from jdnas.presets import preset
from jdnas.spec import DetectorSpec, Head

_RESNET = rules(
    (r"backbone\.stem\.conv\.(\w+)", r"backbone.body.conv1.\1"),
    (r"backbone\.stem\.norm\.(\w+)", r"backbone.body.bn1.\1"),
    (r"backbone\.stages\.(\d)\.(\d+)\.conv(\d)\.conv\.(\w+)", r"backbone.body.layer<\1+1>.\2.conv\3.\4"),
    (r"backbone\.stages\.(\d)\.(\d+)\.conv(\d)\.norm\.(\w+)", r"backbone.body.layer<\1+1>.\2.bn\3.\4"),
    (r"backbone\.stages\.(\d)\.(\d+)\.shortcut\.conv\.(\w+)", r"backbone.body.layer<\1+1>.\2.downsample.0.\3"),
    (r"backbone\.stages\.(\d)\.(\d+)\.shortcut\.norm\.(\w+)", r"backbone.body.layer<\1+1>.\2.downsample.1.\3"),
)
_HEADS = rules(
    (r"fpn\.lateral\.(\d)\.norm\.(\w+)", r"backbone.fpn.inner_blocks.\1.1.\2"),
    (r"fpn\.output\.(\d)\.norm\.(\w+)", r"backbone.fpn.layer_blocks.\1.1.\2"),
    (r"fpn\.lateral\.(\d)\.(?:conv\.)?(\w+)", r"backbone.fpn.inner_blocks.\1.0.\2"),
    (r"fpn\.output\.(\d)\.(?:conv\.)?(\w+)", r"backbone.fpn.layer_blocks.\1.0.\2"),
    (r"rpn\.conv\.(\w+)", r"rpn.head.conv.0.0.\1"),
    (r"rpn\.deeper\.(\d)\.(\w+)", r"rpn.head.conv.<\1+1>.0.\2"),
    (r"rpn\.objectness\.(\w+)", r"rpn.head.cls_logits.\1"),
    (r"rpn\.deltas\.(\w+)", r"rpn.head.bbox_pred.\1"),
    (r"box_head\.convs\.(\d)\.conv\.(\w+)", r"roi_heads.box_head.\1.0.\2"),
    (r"box_head\.convs\.(\d)\.norm\.(\w+)", r"roi_heads.box_head.\1.1.\2"),
    (r"box_head\.(fc[67])\.(\w+)", r"roi_heads.box_head.\1.\2"),
    (r"box_head\.class_logits\.(\w+)", r"roi_heads.box_predictor.cls_score.\1"),
    (r"box_head\.box_deltas\.(\w+)", r"roi_heads.box_predictor.bbox_pred.\1"),
)
_CONVENTIONS = ("round_anchors", "anchor_offset", "roi_aligned", "roi_sampling", "kind")
_BODIES = {
    "r18": "resnet18", "r34": "resnet34", "r50": "resnet50", "r101": "resnet101", "r152": "resnet152",
    "x50_32x4d": "resnext50_32x4d", "x101_32x8d": "resnext101_32x8d", "x101_64x4d": "resnext101_64x4d",
}  # fmt: skip
# Arguments of torchvision's FasterRCNN that hold a constant of our head.
_ARGUMENTS = {
    "candidates": "rpn_pre_nms_top_n_test", "proposals": "rpn_post_nms_top_n_test", "train_candidates": "rpn_pre_nms_top_n_train",
    "train_proposals": "rpn_post_nms_top_n_train", "rpn_nms_iou": "rpn_nms_thresh", "rpn_score_threshold": "rpn_score_thresh",
    "anchor_samples": "rpn_batch_size_per_image", "roi_samples": "box_batch_size_per_image", "score_threshold": "box_score_thresh",
    "nms_iou": "box_nms_thresh", "detections": "box_detections_per_img",
}  # fmt: skip
_V2 = Head(rpn_convs=2, convs=(256,) * 4, fcs=1)
_DETECTION = "torchvision.models.detection"


def state_to_torchvision(state: Mapping[str, Tensor], spec: DetectorSpec) -> dict[str, Tensor]:
    """Return `state` under torchvision's names; a ConfigError says what of `spec` torchvision cannot compute."""
    _check(spec)
    table = _table(spec)
    source = with_eps(dict(state), theirs=spec.traits.norm_eps, ours=MOBILE_EPS)
    theirs = {}
    for name, tensor in source.items():
        new = renamed(name, table)
        if new is None:
            raise ConfigError(f"{name} has no counterpart in torchvision's Faster R-CNN")
        theirs[new] = tensor
    return theirs


def _table(spec: DetectorSpec) -> Rules:
    heads = _HEADS
    if spec.head.convs or spec.head.fcs == 1:  # a sequence: convolutions, flattening, fully connected layers with a ReLU after each
        place = len(spec.head.convs) + 1
        numbered = ((rf"box_head\.{name}\.(\w+)", rf"roi_heads.box_head.{at}.\1") for name, at in (("fc6", place), ("fc7", place + 2)))
        heads = (*rules(*numbered), *heads)
    if spec.traits.block != "mbconv":
        return (*_RESNET, *heads)
    pairs = [(r"backbone\.stem\.conv\.(\w+)", r"backbone.body.0.0.\1"), (r"backbone\.stem\.norm\.(\w+)", r"backbone.body.0.1.\1")]
    number = 1
    for index, stage in enumerate(spec.stages):
        for position in range(stage.depth):
            roles = ["expand"] if (index, position) != (0, 0) else []
            roles += ["depthwise", "squeeze", "project"] if stage.squeeze else ["depthwise", "project"]
            for place, role in enumerate(roles):
                parts = {"reduce": "fc1", "expand": "fc2"} if role == "squeeze" else {"conv": "0", "norm": "1"}
                pairs += [
                    (rf"backbone\.stages\.{index}\.{position}\.{role}\.{ours}\.(\w+)", rf"backbone.body.{number}.block.{place}.{theirs}.\1")
                    for ours, theirs in parts.items()
                ]
            number += 1
    pairs += [
        (rf"backbone\.tail\.{ours}\.(\w+)", rf"backbone.body.{number}.{theirs}.\1") for ours, theirs in (("conv", "0"), ("norm", "1"))
    ]
    return (*rules(*pairs), *heads)


def torchvision_call(spec: DetectorSpec) -> str | None:
    """Return the Python expression that builds the torchvision model of `spec`, or None where no constructor has its widths."""
    built = _constructor(spec)
    if built is None or spec.neck != 256:
        return None
    model, usual = built
    arguments = [f"num_classes={spec.num_classes + 1}"]
    given = {theirs: getattr(spec.head, name) for name, theirs in _ARGUMENTS.items() if getattr(spec.head, name) != getattr(usual, name)}
    arguments += [f"{argument}={value}" for argument, value in given.items()]
    if (spec.head.anchor_sizes, spec.head.anchor_ratios) != (usual.anchor_sizes, usual.anchor_ratios):
        sizes = tuple(tuple(size * scale for scale in spec.head.anchor_scales) for size in spec.head.anchor_sizes)
        ratios = (spec.head.anchor_ratios,) * len(sizes)
        arguments.append(f"rpn_anchor_generator={_DETECTION}.anchor_utils.AnchorGenerator({sizes}, {ratios})")
    return f"{model}{', '.join(arguments)})"


def _constructor(spec: DetectorSpec) -> tuple[str, Head] | None:
    """Return the beginning of a call, up to its number of classes, and the head constants that it has by default."""
    body, structure = next((name for name in _BODIES if _same_body(spec, name)), None), _structure(spec.head)
    if body == "r50" and spec.neck_norm and structure == _structure(_V2):
        return f"{_DETECTION}.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, ", Head()
    if spec.neck_norm:
        return None
    if _same_body(spec, "mobilenet_v3") and structure == _structure(MOBILE_HEAD):
        return f"{_DETECTION}.fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None, ", MOBILE_HEAD
    if body is None or structure != _structure(Head()):
        return None
    backbone = (
        f"{_DETECTION}.backbone_utils.resnet_fpn_backbone(backbone_name={_BODIES[body]!r}, weights=None, norm_layer=torch.nn.BatchNorm2d)"
    )
    return f"{_DETECTION}.FasterRCNN({backbone}, ", Head()


def _structure(head: Head) -> tuple[object, ...]:
    return head.strides, head.anchor_scales, head.rpn_width, head.rpn_convs, head.convs, head.fcs, head.width


def _same_body(spec: DetectorSpec, name: str) -> bool:
    other = preset(name, spec.num_classes)
    return (spec.family, spec.stem, spec.stages, spec.tail) == (other.family, other.stem, other.stages, other.tail)


def _check(spec: DetectorSpec) -> None:
    usual = Head()
    foreign = [f"{name}={getattr(spec.head, name)}" for name in _CONVENTIONS if getattr(spec.head, name) != getattr(usual, name)]
    foreign += [f"{name}={getattr(spec, name)}" for name in ("stride_in_1x1", "deformable") if getattr(spec, name)]
    if not spec.family.startswith(("resnet", "resnext", "mobilenet_v3")):
        raise ConfigError(f"a {spec.family} detector cannot be written for torchvision; ResNet, ResNeXt and MobileNetV3 can")
    if foreign:
        raise ConfigError(
            f"torchvision's Faster R-CNN has no {', '.join(foreign)}, so it would not compute what this detector does; train it on with "
            "torchvision's conventions first, or export ONNX"
        )
