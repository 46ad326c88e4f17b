"""torchvision's Faster R-CNN with weights that make it find many boxes, and our spec of the same network."""

from dataclasses import replace

import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _mobilenet_extractor, _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.rpn import RPNHead

from jdnas.models.detector import build
from jdnas.presets import preset
from jdnas.spec import DetectorSpec

BASES = {"r18": "resnet18", "r50": "resnet50"}


def _model(base: str, classes: int, settings: dict[str, float]) -> FasterRCNN:
    if base == "r50_v2":  # fasterrcnn_resnet50_fpn_v2
        body = torchvision.models.resnet50(weights=None)
        backbone = _resnet_fpn_extractor(body, 5, norm_layer=nn.BatchNorm2d)
        parts = {
            "rpn_head": RPNHead(256, 3, conv_depth=2),
            "box_head": FastRCNNConvFCHead((256, 7, 7), [256] * 4, [1024], norm_layer=nn.BatchNorm2d),
        }
        return FasterRCNN(backbone, classes + 1, **parts, **settings)
    if base == "mobilenet_v3_fpn":  # fasterrcnn_mobilenet_v3_large_fpn
        backbone = _mobilenet_extractor(torchvision.models.mobilenet_v3_large(weights=None), True, 6)
        generator = AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
        return FasterRCNN(backbone, classes + 1, rpn_anchor_generator=generator, rpn_score_thresh=0.05, **settings)
    body = getattr(torchvision.models, BASES[base])(weights=None, norm_layer=nn.BatchNorm2d)
    return FasterRCNN(_resnet_fpn_extractor(body, 5), num_classes=classes + 1, **settings)


def peer(base: str, classes: int, *, seed: int = 0, **settings: float) -> FasterRCNN:
    torch.manual_seed(seed)
    model = _model(base, classes, settings)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
                # Fifty convolutions without shortcuts would leave so little of an image that scores tie.
                layer.weight.uniform_(*((1.2, 1.8) if base.startswith("mobilenet") else (0.4, 0.9)))
                layer.bias.normal_(0, 0.1)
        model.rpn.head.cls_logits.weight.mul_(20)
        model.rpn.head.bbox_pred.weight.mul_(5)
        model.roi_heads.box_predictor.cls_score.weight.mul_(15 if base.startswith("mobilenet") else 4)
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(4)
    return model.eval()


def in_order(model: FasterRCNN, spec: DetectorSpec) -> dict[str, torch.Tensor]:
    """Return the weights of `model` under our names: both sides register their layers in the order in which they run."""
    names = build(spec, device="meta").state_dict()
    return dict(zip(names, model.state_dict().values(), strict=True))


def spec_of(base: str, classes: int, **head: float) -> DetectorSpec:
    spec = preset(base, classes)
    return replace(spec, head=replace(spec.head, **head))


def canvas(size_hw: tuple[int, int], sizes_hw: list[tuple[int, int]], *, seed: int = 0) -> torch.Tensor:
    images = torch.randn(len(sizes_hw), 3, *size_hw, generator=torch.Generator().manual_seed(seed))
    for image, (height, width) in zip(images, sizes_hw, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images
