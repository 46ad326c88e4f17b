"""Detectors of detectron2 and mmdetection compute here what the public definitions of those projects say."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.checkpoints import import_archive
from jdnas.models.checkpoints.reading import Archive
from jdnas.models.detector import EXPORT, build
from jdnas.presets import preset
from tests.models.checkpoints import layouts
from tests.models.checkpoints.reference import DETECTRON2, MMDETECTION, Reference, Settings, cascaded

DEPTHS, CLASSES = (1, 2, 1, 2), 3
SMALL = {"width": 8, "neck": 16, "fc": 32, "classes": CLASSES}
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
BGR_MEAN = (103.53, 116.28, 123.675)
CAFFE = Settings(BGR_MEAN, (1.0, 1.0, 1.0), bgr=True, stride_in_1x1=True)
TORCH = Settings(*IMAGENET, bgr=False, stride_in_1x1=False)


def archive(state: dict[str, Tensor], **meta: object) -> Archive:
    return Archive(Path("model.pth"), state, dict(meta))


def pixels(size_hw: tuple[int, int] = (160, 224), seed: int = 0) -> Tensor:
    """A picture with structure at several scales, in 0..255."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(3, *size_hw)
    for cell in (4, 16, 32):
        noise = torch.rand(1, 3, size_hw[0] // cell, size_hw[1] // cell, generator=generator)
        picture += torch.nn.functional.interpolate(noise, size=size_hw, mode="nearest")[0] * 85
    return picture


def assert_same_detections(imported, reference: Reference, forms=None, *, least: int = 15) -> None:
    spec = imported.spec
    detector = build(spec) if forms is None else build(spec, forms=forms)
    detector.load_state_dict(imported.state)
    image = pixels()
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.traits.mean, spec.traits.std))
    with torch.no_grad():
        found = detector.eval()(((image / 255 - mean) / std)[None], torch.tensor([image.shape[1:]]))
    boxes, scores, labels = reference.detect(image)
    count = int(found.count[0])
    assert count == len(boxes) >= least
    torch.testing.assert_close(found.scores[0, :count], scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boxes_xyxy[0, :count], boxes, atol=1e-2, rtol=0)
    assert torch.equal(found.labels[0, :count], labels + 1)


def test_mmdetection_computes_the_same() -> None:
    state = layouts.trained(layouts.mmdetection(DEPTHS, **SMALL))
    imported = import_archive(archive(state))
    assert imported.spec.head.roi_aligned and not imported.spec.head.round_anchors and imported.spec.head.roi_sampling == 0
    assert_same_detections(imported, Reference(state, MMDETECTION, TORCH, DEPTHS))
    assert_same_detections(imported, Reference(state, MMDETECTION, TORCH, DEPTHS), EXPORT)


@pytest.mark.parametrize("offsets", [18, 27])
@pytest.mark.parametrize(
    ("layout", "names", "settings"), [(layouts.mmdetection, MMDETECTION, TORCH), (layouts.detectron2, DETECTRON2, CAFFE)]
)
def test_deformable_stages(layout, names, settings, offsets: int) -> None:
    """Deformable ConvNets v1 (shifts) and v2 (scales as well) in the last two stages."""
    shapes = layout(DEPTHS, **SMALL, deformable=(2, 3), offsets=offsets)
    state = layouts.trained(shapes, input_std=57.0 if settings is CAFFE else 1.0)
    imported = import_archive(archive(state))
    assert imported.spec.deformable == (2, 3) and imported.spec.modulated == (offsets == 27)
    assert_same_detections(imported, Reference(state, names, settings, DEPTHS))


@pytest.mark.parametrize("layout", [layouts.mmdetection, layouts.detectron2])
def test_cascades(layout) -> None:
    """mmdetection takes the softmax of mean scores and rounds the last deviations; detectron2 the mean of probabilities."""
    mmdetection = layout is layouts.mmdetection
    state = layouts.trained(layout(DEPTHS, **SMALL, cascade=True), input_std=1.0 if mmdetection else 57.0)
    imported = import_archive(archive(state))
    assert imported.spec.head.kind == "cascade"
    last = (0.033, 0.033, 0.067, 0.067) if mmdetection else (1 / 30, 1 / 30, 1 / 15, 1 / 15)
    settings = replace(
        TORCH if mmdetection else CAFFE, mean_of_logits=mmdetection, cascade_stds=((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), last)
    )
    reference = Reference(state, cascaded(MMDETECTION if mmdetection else DETECTRON2), settings, DEPTHS)
    for forms in (None, EXPORT):
        assert_same_detections(imported, reference, forms)
    assert any("cascade.1.box_deltas rescaled" in line for line in imported.report.lines()) == mmdetection


@pytest.mark.parametrize("layout", [layouts.mmdetection, layouts.detectron2])
def test_resnext(layout) -> None:
    """Grouped convolutions; in detectron2's model zoo, these read normalized BGR pixels and have strides in 3x3 convolutions."""
    grouped = {"groups": 2, "group_width": 4}
    state = layouts.trained(layout(DEPTHS, **SMALL, **grouped))
    imported = import_archive(archive(state))
    assert imported.spec.family == "resnext_4d" and not imported.spec.stride_in_1x1
    bgr = Settings(BGR_MEAN, (57.375, 57.12, 58.395), bgr=True, stride_in_1x1=False)
    names, settings = (MMDETECTION, TORCH) if layout is layouts.mmdetection else (DETECTRON2, bgr)
    assert_same_detections(imported, Reference(state, names, settings, DEPTHS))


def test_the_conventions_matter() -> None:
    """The same weights under torchvision's conventions detect other boxes, so that the tests around this one can fail."""
    state = layouts.trained(layouts.mmdetection(DEPTHS, **SMALL))
    imported = import_archive(archive(state))
    for change in ({"roi_aligned": False}, {"round_anchors": True}, {"roi_sampling": 2}):
        other = replace(imported, spec=replace(imported.spec, head=replace(imported.spec.head, **change)))
        with pytest.raises(AssertionError):
            assert_same_detections(other, Reference(state, MMDETECTION, TORCH, DEPTHS))


def test_detectron2_computes_the_same() -> None:
    """As in its model zoo: BGR pixels that nothing divides, strides in 1x1 convolutions."""
    state = layouts.trained(layouts.detectron2(DEPTHS, **SMALL), input_std=57.0)
    imported = import_archive(archive(state))
    assert imported.spec.stride_in_1x1
    assert any("BGR, mean 103.53, 116.28, 123.675, std 1, 1, 1" in line for line in imported.report.lines())
    assert_same_detections(imported, Reference(state, DETECTRON2, CAFFE, DEPTHS))


def test_detectron2_takes_its_settings(tmp_path: Path) -> None:
    """Another order of channels, normalization, stride, pooling and box factors than in the model zoo."""
    state = layouts.trained(layouts.detectron2(DEPTHS, **SMALL))
    settings = {
        "MODEL": {
            "PIXEL_MEAN": list(IMAGENET[0]), "PIXEL_STD": list(IMAGENET[1]), "RESNETS": {"STRIDE_IN_1X1": False, "DEPTH": 50},
            "ANCHOR_GENERATOR": {"SIZES": [[16], [32], [64], [128], [256]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]], "OFFSET": 0.0},
            "ROI_BOX_HEAD": {"POOLER_TYPE": "ROIAlign", "POOLER_SAMPLING_RATIO": 2, "POOLER_RESOLUTION": 7,
                             "BBOX_REG_WEIGHTS": [20.0, 20.0, 10.0, 10.0]},
            "RPN": {"POST_NMS_TOPK_TEST": 200, "PRE_NMS_TOPK_TEST": 1000, "NMS_THRESH": 0.7},
        },
        "INPUT": {"FORMAT": "RGB", "MIN_SIZE_TEST": 600, "MAX_SIZE_TEST": 1000}, "TEST": {"DETECTIONS_PER_IMAGE": 100},
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    imported = import_archive(archive(state), config=path)
    assert imported.size_hw == (608, 1024) and imported.spec.head.proposals == 200
    theirs = replace(TORCH, aligned=False, sampling=2, sizes=(16, 32, 64, 128, 256), box_stds=(0.05, 0.05, 0.1, 0.1), proposals=200)
    assert_same_detections(imported, Reference(state, DETECTRON2, theirs, DEPTHS))


MMDET_3 = """
model = dict(
    backbone=dict(type='ResNet', depth=50, style='caffe'),
    data_preprocessor=dict(bgr_to_rgb=False, mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], type='DetDataPreprocessor'),
    roi_head=dict(
        bbox_head=dict(
            bbox_coder=dict(target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.2, 0.2, 0.3, 0.3], type='DeltaXYWHBBoxCoder'),
            reg_class_agnostic=True),
        bbox_roi_extractor=dict(roi_layer=dict(output_size=7, sampling_ratio=2, type='RoIAlign'))),
    rpn_head=dict(anchor_generator=dict(ratios=[0.5, 1.0, 2.0], scales=[4], strides=[4, 8, 16, 32, 64])),
    test_cfg=dict(
        rcnn=dict(max_per_img=100, nms=dict(iou_threshold=0.5, type='nms'), score_thr=0.05),
        rpn=dict(max_per_img=150, nms=dict(iou_threshold=0.7, type='nms'), nms_pre=1000)))
test_pipeline = [dict(type='LoadImageFromFile'), dict(keep_ratio=True, scale=(1000, 600), type='Resize')]
work_dir = __import__('os').system('touch ran')
"""


def test_mmdetection_takes_the_settings_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mmdetection 3.x keeps its settings as Python text; class-agnostic boxes are repeated for every class; the text is not run."""
    monkeypatch.chdir(tmp_path)
    state = layouts.trained(layouts.mmdetection(DEPTHS, **SMALL), input_std=57.0)
    for part in ("weight", "bias"):
        state[f"roi_head.bbox_head.fc_reg.{part}"] = state[f"roi_head.bbox_head.fc_reg.{part}"][:4]
    meta = {"cfg": MMDET_3, "dataset_meta": {"classes": ("ant", "bee", "cat"), "palette": []}, "epoch": 12}
    imported = import_archive(archive(state, meta=meta))
    assert imported.classes == ("ant", "bee", "cat") and imported.size_hw == (608, 1024) and imported.spec.stride_in_1x1
    theirs = replace(CAFFE, sampling=2, sizes=(16, 32, 64, 128, 256), box_stds=(0.2, 0.2, 0.3, 0.3), proposals=150)
    assert_same_detections(imported, Reference(state, MMDETECTION, theirs, DEPTHS))
    assert not Path("ran").exists()


def test_mmdetection_2_keeps_its_settings_elsewhere() -> None:
    text = (
        "model = dict(backbone=dict(style='pytorch'), roi_head=dict(), rpn_head=dict(), test_cfg=dict(rpn=dict(nms_post=77)))\n"
        "img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], to_rgb=False)\n"
        "test_pipeline = [dict(type='MultiScaleFlipAug', img_scale=(640, 480), transforms=[dict(type='Resize', keep_ratio=True)])]\n"
    )
    state = layouts.trained(layouts.mmdetection(DEPTHS, **SMALL))
    imported = import_archive(archive(state, meta={"config": text, "CLASSES": ["ant", "bee", "cat"]}))
    assert imported.classes == ("ant", "bee", "cat") and imported.size_hw == (480, 640) and imported.spec.head.proposals == 77
    stem = imported.state["backbone.stem.conv.weight"]
    # BGR with the same mean and deviation of each colour as ours: only the order changes.
    torch.testing.assert_close(stem, state["backbone.conv1.weight"].flip(1), rtol=1e-5, atol=1e-7)


def test_another_mean_is_taken_into_the_norm() -> None:
    """Inside the image the folded stem equals theirs; at the border zeros stand for another colour."""
    text = "model = dict()\nimg_norm_cfg = dict(mean=[110.0, 120.0, 130.0], std=[50.0, 60.0, 70.0], to_rgb=True)"
    state = layouts.trained(layouts.mmdetection(DEPTHS, **SMALL))
    imported = import_archive(archive(state, meta={"config": text}))
    theirs = Reference(state, MMDETECTION, replace(TORCH, mean=(110.0, 120.0, 130.0), std=(50.0, 60.0, 70.0)), DEPTHS)
    detector = build(imported.spec).eval()
    detector.load_state_dict(imported.state)
    image = pixels()
    mean, std = (torch.tensor(values)[:, None, None] for values in (imported.spec.traits.mean, imported.spec.traits.std))
    x = ((image - torch.tensor([110.0, 120, 130])[:, None, None]) / torch.tensor([50.0, 60, 70])[:, None, None])[None]
    with torch.no_grad():
        expected = theirs.norm(theirs.conv(x, "backbone.conv1", 2), "backbone.bn1").relu()
        found = detector.backbone.stem(((image / 255 - mean) / std)[None])
    torch.testing.assert_close(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], atol=1e-4, rtol=1e-4)
    assert any("exact except at the image's border" in line for line in imported.report.lines())


@pytest.mark.parametrize("layout", [layouts.mmdetection, layouts.detectron2])
def test_real_shapes_give_the_preset(layout) -> None:
    imported = import_archive(archive(layouts.empty(layout())))
    r50 = preset("r50", 80)
    assert replace(imported.spec, head=r50.head, stride_in_1x1=False) == r50
    assert imported.spec.stride_in_1x1 == (layout is layouts.detectron2)
    assert len(imported.classes) == 80 and imported.classes[0] == "person" and imported.classes[-1] == "toothbrush"
    assert not imported.fresh and imported.size_hw == (800, 1344)


@pytest.mark.parametrize(
    ("layout", "groups", "group_width", "name"),
    [(layouts.mmdetection, 64, 4, "x101_64x4d"), (layouts.mmdetection, 32, 4, "x101_32x4d"), (layouts.detectron2, 32, 8, "x101_32x8d")],
)
def test_real_shapes_of_resnext101(layout, groups: int, group_width: int, name: str) -> None:
    imported = import_archive(archive(layouts.empty(layout((3, 4, 23, 3), groups=groups, group_width=group_width))))
    expected = preset(name, 80)
    assert replace(imported.spec, head=expected.head) == expected


def test_mask_branches_are_left_out_and_listed() -> None:
    state = layouts.empty(layouts.detectron2(DEPTHS, **SMALL))
    state |= {"roi_heads.mask_head.mask_fcn1.weight": torch.zeros(4, 4, 3, 3), "roi_heads.mask_head.mask_fcn1.bias": torch.zeros(4)}
    lines = import_archive(archive(state)).report.lines()
    assert any("left out: roi_heads.mask_head (2 entries)" in line for line in lines)


def test_older_detectron2_files_tell_anchors_and_normalization() -> None:
    state = layouts.empty(layouts.detectron2(DEPTHS, **SMALL))
    for level, size in enumerate((24, 48, 96, 192, 384)):
        half = [(size / r**0.5 / 2, size * r**0.5 / 2) for r in (0.5, 1.0, 2.0)]
        state[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = torch.tensor([[-w, -h, w, h] for w, h in half])
    state |= {"pixel_mean": torch.tensor([1.0, 2, 3]).view(3, 1, 1), "pixel_std": torch.tensor([4.0, 5, 6]).view(3, 1, 1)}
    imported = import_archive(archive(state))
    assert imported.spec.head.anchor_sizes == (24, 48, 96, 192, 384)
    assert any("BGR, mean 1, 2, 3, std 4, 5, 6" in line for line in imported.report.lines())


def test_parts_without_a_counterpart_are_refused() -> None:
    state = layouts.empty(layouts.mmdetection(DEPTHS, **SMALL))
    with pytest.raises(CheckpointError, match="parts that have no counterpart here: 1 entries, such as backbone.layer1.0.context_block.x"):
        import_archive(archive({**state, "backbone.layer1.0.context_block.x": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="mmdetection 1.x"):
        import_archive(archive({name.replace("roi_head.bbox_head", "bbox_head"): t for name, t in state.items()}))
    settings = "model = dict(rpn_head=dict(anchor_generator=dict(scales=[2, 4], strides=[4, 8, 16, 32, 64], ratios=[1.0])))"
    with pytest.raises(CheckpointError, match="anchors of scales"):
        import_archive(archive(state, meta={"cfg": settings}))
