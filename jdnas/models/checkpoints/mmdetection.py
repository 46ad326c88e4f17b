"""mmdetection's Faster R-CNN with FPN (2.x and 3.x): the layout of its state dicts, and the settings that stand in its checkpoints."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.checkpoints.names import box_head_rules, resnet_rules, rules, translate, with_neck_norm
from jdnas.models.checkpoints.origin import (
    ROI_BOX_WEIGHTS,
    RPN_BOX_WEIGHTS,
    Converted,
    Four,
    InputFormat,
    Origin,
    background_first,
)  # fmt: skip
from jdnas.models.checkpoints.python_config import find, read_python_config
from jdnas.models.checkpoints.reading import Archive
from jdnas.spec import Head

NAME = "mmdetection"
RULES = (
    *resnet_rules(r"backbone\."),
    *rules(
        (r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", r"fpn.lateral.\1.\2"),
        (r"neck\.fpn_convs\.(\d)\.conv\.(\w+)", r"fpn.output.\1.\2"),
        (r"neck\.lateral_convs\.(\d)\.bn\.(\w+)", r"fpn.lateral.\1.norm.\2"),
        (r"neck\.fpn_convs\.(\d)\.bn\.(\w+)", r"fpn.output.\1.norm.\2"),
        (r"rpn_head\.rpn_conv\.(?:0\.conv\.)?(\w+)", r"rpn.conv.\1"),
        (r"rpn_head\.rpn_conv\.(\d)\.conv\.(\w+)", r"rpn.deeper.<\1-1>.\2"),
        (r"rpn_head\.rpn_cls\.(\w+)", r"rpn.objectness.\1"),
        (r"rpn_head\.rpn_reg\.(\w+)", r"rpn.deltas.\1"),
    ),
    *box_head_rules(
        r"roi_head\.bbox_head\.{}", r"roi_head\.bbox_head\.{}",
        (r"shared_convs\.(?P<i>\d)\.conv\.(?P<kind>\w+)", r"convs.\g<i>.conv"),
        (r"shared_convs\.(?P<i>\d)\.bn\.(?P<kind>\w+)", r"convs.\g<i>.norm"),
        (r"shared_fcs\.0\.(?P<kind>\w+)", "fc6"),
        (r"shared_fcs\.1\.(?P<kind>\w+)", "fc7"),
        (r"fc_cls\.(?P<kind>\w+)", "class_logits"),
        (r"fc_reg\.(?P<kind>\w+)", "box_deltas"),
    ),
)  # fmt: skip
_OTHER_TASKS = ("roi_head.mask_head.", "data_preprocessor.")
# RoIAlign with half-pixel centers and as many samples as a bin has pixels; anchors that nothing rounds: the defaults since 2.0.
HEAD = Head(round_anchors=False, roi_aligned=True, roi_sampling=0)
# Deviations 0.1 and 0.2, half of those, and a third in rounded numbers.
_CASCADE_WEIGHTS: tuple[Four, ...] = (*ROI_BOX_WEIGHTS, (20.0, 20.0, 10.0, 10.0), (1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067))
_STRIDES = (4, 8, 16, 32, 64)
_NO_SETTINGS = "RGB with ImageNet mean and deviation, and mmdetection's usual head: the file holds no settings (give them with --config)"


def matches(names: Mapping[str, Tensor]) -> bool:
    """Tell whether these are entries of mmdetection's two-stage detectors."""
    return "rpn_head.rpn_cls.weight" in names and any(name.startswith(("roi_head.bbox_head.", "bbox_head.")) for name in names)


def convert(archive: Archive, config: Mapping[str, Any] | None, norm_eps: float | None) -> Converted:
    """Translate names, put the background first, and take conventions from the settings in the file or from `config`."""
    if "bbox_head.fc_cls.weight" in archive.tensors or "bbox_head.0.fc_cls.weight" in archive.tensors:
        raise CheckpointError(
            f"{archive.path} is a checkpoint of mmdetection 1.x, whose anchors and classes follow other rules; bring it to 2.x with "
            "mmdetection's tools/model_converters/upgrade_model_version.py"
        )
    tensors, dropped, unknown = translate(archive.tensors, RULES, _OTHER_TASKS)
    tensors = with_neck_norm(tensors)
    settings = dict(config) if config is not None else settings_of(archive.meta)
    cascade = any(name.startswith("cascade.") for name in tensors)
    usual = _CASCADE_WEIGHTS if cascade else ROI_BOX_WEIGHTS
    origin = Origin(NAME, head=HEAD, roi_box_weights=usual, size_hw=(800, 1344), assumed=(_NO_SETTINGS,))
    if "model" in settings:
        origin = _origin(settings, usual)
    if cascade:
        origin = replace(origin, head=replace(origin.head, kind="cascade", cascade_mean="logits"))
    origin = replace(origin, classes=_classes(archive.meta), norm_eps=norm_eps)
    return Converted(origin, background_first(tensors), tuple(dropped), tuple(unknown))


def settings_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that mmdetection wrote into a checkpoint: as `config` in 2.x, as `cfg` in 3.x."""
    inner = meta.get("meta")
    text = next((inner[key] for key in ("cfg", "config") if isinstance(inner.get(key), str)), "") if isinstance(inner, Mapping) else ""
    return read_python_config(text)


def _classes(meta: Mapping[str, Any]) -> tuple[str, ...]:
    inner = meta.get("meta")
    places = (("CLASSES",), ("dataset_meta", "CLASSES"), ("dataset_meta", "classes"))
    for place in places:
        found = find(inner, *place)
        if isinstance(found, list | tuple) and all(isinstance(name, str) for name in found):
            return tuple(found)
    return ()


def _origin(settings: Mapping[str, Any], usual: tuple[Four, ...]) -> Origin:
    model = settings["model"]
    heads = find(model, "roi_head", "bbox_head")
    heads = list(heads) if isinstance(heads, list | tuple) else [heads] * len(usual)
    if len(heads) != len(usual):
        raise CheckpointError(f"the settings have {len(heads)} box heads where the weights have {len(usual)}")
    return Origin(
        NAME,
        head=_head(settings),
        stride_in_1x1=find(model, "backbone", "style") == "caffe",
        image=_image(settings),
        rpn_box_weights=_box_weights(find(model, "rpn_head", "bbox_coder")) or RPN_BOX_WEIGHTS,
        roi_box_weights=tuple(_box_weights(find(head, "bbox_coder")) or default for head, default in zip(heads, usual, strict=True)),
        size_hw=_size_hw(settings),
        assumed=_differences(settings),
    )


def _differences(settings: Mapping[str, Any]) -> tuple[str, ...]:
    nms = find(_test(settings), "rcnn", "nms", "type")
    return () if nms in (None, "nms") else (f"plain suppression of detections where the settings ask for {nms}",)


def _test(settings: Mapping[str, Any]) -> Any:
    return find(settings, "model", "test_cfg") or settings.get("test_cfg")


def _image(settings: Mapping[str, Any]) -> InputFormat | None:
    given = find(settings, "model", "data_preprocessor")
    key = "bgr_to_rgb"
    if not isinstance(given, dict) or given.get("mean") is None:
        given, key = settings.get("img_norm_cfg"), "to_rgb"
    if not isinstance(given, dict) or given.get("mean") is None:
        return None
    default = key == "to_rgb"  # what mmdetection does where nothing is said
    return InputFormat(tuple(map(float, given["mean"])), tuple(map(float, given["std"])), bgr=not given.get(key, default))


def _box_weights(coder: Any) -> Four | None:
    deviations, means = find(coder, "target_stds"), find(coder, "target_means") or (0.0,)
    if deviations is None:
        return None
    if any(means):
        raise CheckpointError(f"box deltas around the means {tuple(means)} have no counterpart; only means of 0 have")
    x, y, width, height = (1 / float(value) for value in deviations)
    return x, y, width, height


def _head(settings: Mapping[str, Any]) -> Head:
    """Return the head's constants: those of the settings, and `HEAD` where they say nothing."""
    anchors = find(settings, "model", "rpn_head", "anchor_generator")
    pooling = find(settings, "model", "roi_head", "bbox_roi_extractor")
    pooling = find(pooling, 0) if isinstance(pooling, list) else pooling
    rpn, detections = find(_test(settings), "rpn"), find(_test(settings), "rcnn")
    strides, scales = find(anchors, "strides") or _STRIDES, find(anchors, "scales") or [8]
    if len(scales) != 1 or tuple(strides) != _STRIDES:
        raise CheckpointError(
            f"anchors of scales {scales} at strides {list(strides)} have no counterpart; one scale at 4, 8, 16, 32, 64 has"
        )
    layer = find(pooling, "roi_layer")
    if find(layer, "output_size") not in (None, 7):
        raise CheckpointError(f"RoIs of {find(layer, 'output_size')} bins have no counterpart; only 7 have")
    given = {
        "anchor_sizes": tuple(round(stride * scales[0]) for stride in strides),
        "anchor_ratios": _tuple(find(anchors, "ratios")),
        "anchor_offset": find(anchors, "center_offset"),
        "roi_aligned": find(layer, "aligned"),
        "roi_sampling": find(layer, "sampling_ratio"),
        "candidates": find(rpn, "nms_pre"),
        "proposals": _first(find(rpn, "max_per_img"), find(rpn, "max_num"), find(rpn, "nms_post")),
        "rpn_nms_iou": _first(find(rpn, "nms", "iou_threshold"), find(rpn, "nms", "iou_thr"), find(rpn, "nms_thr")),
        "score_threshold": find(detections, "score_thr"),
        "nms_iou": _first(find(detections, "nms", "iou_threshold"), find(detections, "nms", "iou_thr")),
        "detections": find(detections, "max_per_img"),
    }
    return replace(HEAD, **{name: value for name, value in given.items() if value is not None})


def _tuple(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(map(float, values))


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _size_hw(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the canvas of the test settings, lying, in multiples of 32."""
    steps = settings.get("test_pipeline") or []
    inner = [find(step, "transforms") or [] for step in steps]
    for step in (*steps, *(s for group in inner for s in group)):
        scale = _first(find(step, "img_scale"), find(step, "scale"))
        if isinstance(scale, tuple) and len(scale) == 2 and all(isinstance(side, int) and side > 0 for side in scale):
            long, short = max(scale), min(scale)
            return -(-short // 32) * 32, -(-long // 32) * 32
    return 800, 1344
