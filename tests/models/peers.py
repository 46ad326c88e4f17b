"""torchvision's Faster R-CNN with weights that make it find many boxes, and our spec of the same network."""

from dataclasses import replace

import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

from jdnas.presets import preset
from jdnas.spec import DetectorSpec

BASES = {"r18": "resnet18", "r50": "resnet50"}


def peer(base: str, classes: int, *, seed: int = 0, **settings: float) -> FasterRCNN:
    torch.manual_seed(seed)
    body = getattr(torchvision.models, BASES[base])(weights=None, norm_layer=nn.BatchNorm2d)
    model = FasterRCNN(_resnet_fpn_extractor(body, 5), num_classes=classes + 1, **settings)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
                layer.weight.uniform_(0.4, 0.9)
                layer.bias.normal_(0, 0.1)
        model.rpn.head.cls_logits.weight.mul_(20)
        model.rpn.head.bbox_pred.weight.mul_(5)
        model.roi_heads.box_predictor.cls_score.weight.mul_(4)
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(4)
    return model.eval()


def spec_of(base: str, classes: int, **head: float) -> DetectorSpec:
    spec = preset(base, classes)
    return replace(spec, head=replace(spec.head, **head))


def canvas(size_hw: tuple[int, int], sizes_hw: list[tuple[int, int]], *, seed: int = 0) -> torch.Tensor:
    images = torch.randn(len(sizes_hw), 3, *size_hw, generator=torch.Generator().manual_seed(seed))
    for image, (height, width) in zip(images, sizes_hw, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images
