"""From a spec to its backbone module."""

from jdnas.models.efficientnet import EfficientNetLite
from jdnas.models.resnet import ResNet
from jdnas.spec import DetectorSpec

Backbone = ResNet | EfficientNetLite


def build_backbone(spec: DetectorSpec) -> Backbone:
    """Build the backbone of `spec`; `.out_axes` names the widths of the four maps it returns."""
    return EfficientNetLite(spec) if spec.traits.block == "mbconv" else ResNet(spec)
