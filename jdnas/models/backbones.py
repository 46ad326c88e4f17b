"""From a spec to its backbone module."""

from jdnas.models.deform import DeformForm
from jdnas.models.mobile import MobileNet
from jdnas.models.resnet import ResNet
from jdnas.spec import DetectorSpec

Backbone = ResNet | MobileNet


def build_backbone(spec: DetectorSpec, deform_form: DeformForm = "operator") -> Backbone:
    """Build the backbone of `spec`; `.out_axes` names the widths of the maps it returns."""
    return MobileNet(spec) if spec.traits.block == "mbconv" else ResNet(spec, deform_form)
