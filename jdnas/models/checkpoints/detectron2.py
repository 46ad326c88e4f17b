"""detectron2's Faster R-CNN with FPN: the layout of its state dicts, and the conventions of its config.yaml."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.checkpoints.names import box_head_rules, rules, translate, with_neck_norm
from jdnas.models.checkpoints.origin import (
    CASCADE_BOX_WEIGHTS,
    ROI_BOX_WEIGHTS,
    RPN_BOX_WEIGHTS,
    Converted,
    Four,
    InputFormat,
    Origin,
    background_first,
)  # fmt: skip
from jdnas.models.checkpoints.python_config import find
from jdnas.models.checkpoints.reading import Archive
from jdnas.spec import Head

NAME = "detectron2"
_BLOCK = r"backbone\.bottom_up\.res(\d)\.(\d+)\."
_RULES = rules(
    (r"backbone\.bottom_up\.stem\.conv1\.(\w+)", r"backbone.stem.conv.\1"),
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.(\w+)", r"backbone.stem.norm.\1"),
    (_BLOCK + r"conv(\d)\.(weight)", r"backbone.stages.<\1-2>.\2.conv\3.conv.\4"),
    (_BLOCK + r"conv(\d)\.norm\.(\w+)", r"backbone.stages.<\1-2>.\2.conv\3.norm.\4"),
    (_BLOCK + r"conv(\d)_offset\.(\w+)", r"backbone.stages.<\1-2>.\2.conv\3.conv.offset.\4"),
    (_BLOCK + r"shortcut\.(weight)", r"backbone.stages.<\1-2>.\2.shortcut.conv.\3"),
    (_BLOCK + r"shortcut\.norm\.(\w+)", r"backbone.stages.<\1-2>.\2.shortcut.norm.\3"),
    (r"backbone\.fpn_lateral(\d)\.norm\.(\w+)", r"fpn.lateral.<\1-2>.norm.\2"),
    (r"backbone\.fpn_output(\d)\.norm\.(\w+)", r"fpn.output.<\1-2>.norm.\2"),
    (r"backbone\.fpn_lateral(\d)\.(\w+)", r"fpn.lateral.<\1-2>.\2"),
    (r"backbone\.fpn_output(\d)\.(\w+)", r"fpn.output.<\1-2>.\2"),
    (r"proposal_generator\.rpn_head\.conv\.(?:conv0\.)?(\w+)", r"rpn.conv.\1"),
    (r"proposal_generator\.rpn_head\.conv\.conv(\d)\.(\w+)", r"rpn.deeper.<\1-1>.\2"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(\w+)", r"rpn.objectness.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(\w+)", r"rpn.deltas.\1"),
)
RULES = (
    *_RULES,
    *box_head_rules(
        r"roi_heads\.box_head\.{}", r"roi_heads\.box_predictor\.{}",
        (r"conv(?P<i>\d)\.(?P<kind>weight)", r"convs.<\g<i>-1>.conv"),
        (r"conv(?P<i>\d)\.norm\.(?P<kind>\w+)", r"convs.<\g<i>-1>.norm"),
        (r"fc1\.(?P<kind>\w+)", "fc6"),
        (r"fc2\.(?P<kind>\w+)", "fc7"),
        (r"cls_score\.(?P<kind>\w+)", "class_logits"),
        (r"bbox_pred\.(?P<kind>\w+)", "box_deltas"),
    ),
)  # fmt: skip
_CELLS = "proposal_generator.anchor_generator.cell_anchors."
_OTHER_TASKS = ("roi_heads.mask_head.", "roi_heads.keypoint_head.", "sem_seg_head.", "pixel_mean", "pixel_std", _CELLS)
HEAD = Head(round_anchors=False, roi_aligned=True, roi_sampling=0)
_BGR_MEAN, _BGR_STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)


def matches(names: Mapping[str, Tensor]) -> bool:
    """Tell whether these are entries of detectron2's two-stage detectors with FPN."""
    return "proposal_generator.rpn_head.objectness_logits.weight" in names and any(n.startswith("backbone.bottom_up.") for n in names)


def convert(archive: Archive, config: Mapping[str, Any] | None, norm_eps: float | None) -> Converted:
    """Translate names, put the background first, and take conventions from `config` or, without one, from the model zoo's habits."""
    tensors, dropped, unknown = translate(archive.tensors, RULES, _OTHER_TASKS)
    tensors = with_neck_norm(tensors)
    cascade = any(name.startswith("cascade.") for name in tensors)
    origin = _usual(archive.tensors) if config is None else _configured(config)
    if cascade:
        factors = CASCADE_BOX_WEIGHTS if config is None else _cascade_factors(config)
        origin = replace(origin, head=replace(origin.head, kind="cascade"), roi_box_weights=factors)
    sizes = _anchor_sizes(archive.tensors)
    if sizes is not None:
        origin = replace(origin, head=replace(origin.head, anchor_sizes=sizes))
    return Converted(replace(origin, norm_eps=norm_eps), background_first(tensors), tuple(dropped), tuple(unknown))


def _usual(tensors: Mapping[str, Tensor]) -> Origin:
    """Return how the model zoo's detectors compute: MSRA's ResNets read pixels that nothing divides, ResNeXts normalized ones."""
    middle = tensors.get("backbone.bottom_up.res2.0.conv2.weight")
    bottleneck = "backbone.bottom_up.res2.0.conv3.weight" in tensors
    grouped = middle is not None and middle.shape[1] < middle.shape[0]
    image = InputFormat(_BGR_MEAN, _BGR_STD if grouped else (1.0, 1.0, 1.0), bgr=True)
    if "pixel_mean" in tensors and "pixel_std" in tensors:
        image = InputFormat(tuple(tensors["pixel_mean"].flatten().tolist()), tuple(tensors["pixel_std"].flatten().tolist()), bgr=True)
    stride_in_1x1 = bottleneck and not grouped
    where = "1x1" if stride_in_1x1 else "3x3"
    assumed = (
        f"{image.describe()}, strides in {where} convolutions, as in detectron2's model zoo (if not, give its config.yaml with --config)"
    )
    return Origin(NAME, head=HEAD, stride_in_1x1=stride_in_1x1, image=image, size_hw=(800, 1344), assumed=(assumed,))


def _anchor_sizes(tensors: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    # Older files keep the boxes of each level's anchors around the origin, all of one area.
    cells = [tensors[name] for name in sorted(name for name in tensors if name.startswith(_CELLS))]
    if not cells:
        return None
    return tuple(round(float((cell[0, 2] - cell[0, 0]) * (cell[0, 3] - cell[0, 1])) ** 0.5) for cell in cells)


def _configured(config: Mapping[str, Any]) -> Origin:
    model, test = find(config, "MODEL"), find(config, "TEST")
    if model is None:
        raise CheckpointError(
            "the settings given with --config have no section MODEL; detectron2 writes a full config.yaml into OUTPUT_DIR"
        )
    image = InputFormat(
        tuple(map(float, find(model, "PIXEL_MEAN") or _BGR_MEAN)),
        tuple(map(float, find(model, "PIXEL_STD") or (1.0, 1.0, 1.0))),
        bgr=(find(config, "INPUT", "FORMAT") or "BGR") == "BGR",
    )
    short, long = find(config, "INPUT", "MIN_SIZE_TEST") or 800, find(config, "INPUT", "MAX_SIZE_TEST") or 1333
    return Origin(
        NAME,
        head=_head(model, test),
        stride_in_1x1=_or(find(model, "RESNETS", "STRIDE_IN_1X1"), True) and (find(model, "RESNETS", "DEPTH") or 50) > 34,
        image=image,
        rpn_box_weights=tuple(find(model, "RPN", "BBOX_REG_WEIGHTS") or RPN_BOX_WEIGHTS),
        roi_box_weights=(tuple(find(model, "ROI_BOX_HEAD", "BBOX_REG_WEIGHTS") or ROI_BOX_WEIGHTS[0]),),
        size_hw=(-(-short // 32) * 32, -(-long // 32) * 32),
    )


def _cascade_factors(config: Mapping[str, Any]) -> tuple[Four, ...]:
    given = find(config, "MODEL", "ROI_BOX_CASCADE_HEAD", "BBOX_REG_WEIGHTS")
    if given is None:
        return CASCADE_BOX_WEIGHTS
    if len(given) != len(CASCADE_BOX_WEIGHTS):
        raise CheckpointError(f"a cascade of {len(given)} heads has no counterpart; one of {len(CASCADE_BOX_WEIGHTS)} has")
    return tuple((float(x), float(y), float(w), float(h)) for x, y, w, h in given)


def _head(model: Any, test: Any) -> Head:
    pooling, sizes = find(model, "ROI_BOX_HEAD"), find(model, "ANCHOR_GENERATOR", "SIZES")
    kind, bins = find(pooling, "POOLER_TYPE") or "ROIAlignV2", _or(find(pooling, "POOLER_RESOLUTION"), 7)
    if kind not in ("ROIAlign", "ROIAlignV2") or bins != 7:
        raise CheckpointError(f"RoIs pooled by {kind} into {bins} bins have no counterpart; ROIAlign and ROIAlignV2 into 7 have")
    if sizes is not None and (len(sizes) != 5 or any(len(level) != 1 for level in sizes)):
        raise CheckpointError(f"anchor sizes {sizes} have no counterpart; one size on each of five levels has")
    given = {
        "anchor_sizes": None if sizes is None else tuple(round(level[0]) for level in sizes),
        "anchor_ratios": _ratios(find(model, "ANCHOR_GENERATOR", "ASPECT_RATIOS")),
        "anchor_offset": find(model, "ANCHOR_GENERATOR", "OFFSET"),
        "roi_aligned": kind == "ROIAlignV2",
        "roi_sampling": find(pooling, "POOLER_SAMPLING_RATIO"),
        "candidates": find(model, "RPN", "PRE_NMS_TOPK_TEST"),
        "proposals": find(model, "RPN", "POST_NMS_TOPK_TEST"),
        "rpn_nms_iou": find(model, "RPN", "NMS_THRESH"),
        "score_threshold": find(model, "ROI_HEADS", "SCORE_THRESH_TEST"),
        "nms_iou": find(model, "ROI_HEADS", "NMS_THRESH_TEST"),
        "detections": find(test, "DETECTIONS_PER_IMAGE"),
    }
    return replace(HEAD, **{name: value for name, value in given.items() if value is not None})


def _ratios(levels: Any) -> tuple[float, ...] | None:
    if levels is None:
        return None
    if any(level != levels[0] for level in levels):
        raise CheckpointError(f"anchor ratios that differ by level ({levels}) have no counterpart")
    return tuple(map(float, levels[0]))


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
