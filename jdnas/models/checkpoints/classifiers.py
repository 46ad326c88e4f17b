"""Classification backbones: ResNets of torchvision and timm, MobileNets of torchvision, EfficientNet-Lite of efficientnet-pytorch."""

from collections.abc import Mapping

from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.checkpoints.mobile import mobilenet_names, stages_by_width
from jdnas.models.checkpoints.names import resnet_rules, translate
from jdnas.models.checkpoints.origin import Converted, Origin
from jdnas.models.checkpoints.reading import Archive
from jdnas.models.weights import shapes_of
from jdnas.spec import DetectorSpec

_RESNET_RULES = resnet_rules("(?:backbone\\.)?")  # mmpretrain's files have the prefix
_LITE_LAYERS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def matches_resnet(names: Mapping[str, Tensor]) -> bool:
    """Tell whether these are entries of a ResNet without a detector around it."""
    plain = {"conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"}
    return plain <= names.keys() or {f"backbone.{name}" for name in plain} <= names.keys()


def convert_resnet(archive: Archive, config: Mapping[str, object] | None, norm_eps: float | None) -> Converted:
    """Translate names; the classifier has no counterpart."""
    tensors, dropped, unknown = translate(archive.tensors, _RESNET_RULES, ("fc.", "head.", "data_preprocessor."))
    return Converted(Origin("a ResNet classifier", norm_eps=norm_eps), tensors, tuple(dropped), tuple(unknown))


def matches_mobilenet(names: Mapping[str, Tensor]) -> bool:
    """Tell whether these are entries of torchvision's MobileNetV2 or V3."""
    return "features.0.0.weight" in names and any(f"features.1.{kind}.0.0.weight" in names for kind in ("conv", "block"))


def convert_mobilenet(archive: Archive, config: Mapping[str, object] | None, norm_eps: float | None) -> Converted:
    """Translate names; MobileNetV3's last convolution is the detector's tail, MobileNetV2's belongs to its classifier."""
    third = "features.1.block.0.0.weight" in archive.tensors
    tensors, left = mobilenet_names(archive.tensors, "features.", with_tail=third)
    dropped = [name for name in left if name.startswith(("classifier.", "features."))]
    origin = Origin("a MobileNet classifier", family="mobilenet_v3" if third else "mobilenet_v2", norm_eps=norm_eps)
    return Converted(origin, tensors, tuple(dropped), tuple(name for name in left if name not in dropped))


def matches_lite(names: Mapping[str, Tensor]) -> bool:
    """Tell whether these are entries of an EfficientNet without squeeze-and-excitation in the layout of efficientnet-pytorch."""
    return {"_conv_stem.weight", "_blocks.0._depthwise_conv.weight"} <= names.keys()


def convert_lite(archive: Archive, config: Mapping[str, object] | None, norm_eps: float | None) -> Converted:
    """Translate names: blocks are numbered through in such files, and a new output width begins a stage."""
    widths: list[int] = []
    while (project := archive.tensors.get(f"_blocks.{len(widths)}._project_conv.weight")) is not None:
        widths.append(len(project))
    tensors, unknown = _lite_names(archive.tensors, stages_by_width(widths))
    dropped = [name for name in unknown if name.startswith(("_conv_head.", "_bn1.", "_fc."))]
    origin = Origin("an EfficientNet-Lite classifier", family="efficientnet_lite", norm_eps=norm_eps)
    return Converted(origin, tensors, tuple(dropped), tuple(name for name in unknown if name not in dropped))


def _lite_names(state: Mapping[str, Tensor], places: list[tuple[int, int]]) -> tuple[dict[str, Tensor], list[str]]:
    ours: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        first, *rest = name.split(".")
        if first in ("_conv_stem", "_bn0"):
            ours[f"backbone.stem.{'conv' if first == '_conv_stem' else 'norm'}.{rest[-1]}"] = tensor
        elif first == "_blocks" and int(rest[0]) < len(places) and rest[1] in _LITE_LAYERS:
            stage, block = places[int(rest[0])]
            ours[f"backbone.stages.{stage}.{block}.{_LITE_LAYERS[rest[1]]}.{rest[2]}"] = tensor
        else:
            unknown.append(name)
    return ours, unknown


def state_from_efficientnet_lite(state: Mapping[str, Tensor], spec: DetectorSpec) -> dict[str, Tensor]:
    """Return the backbone entries of `build(spec)` held by an EfficientNet-Lite classifier in the layout of efficientnet-pytorch.

    Raises:
        CheckpointError: a backbone entry is missing or has another shape than `spec` asks for.
    """
    ours, _ = _lite_names(state, [(stage, block) for stage, depth in enumerate(spec.depths) for block in range(depth)])
    expected = {name: shape for name, shape in shapes_of(spec).items() if name.startswith("backbone.")}
    wrong = [name for name, shape in expected.items() if name not in ours or ours[name].shape != shape]
    if wrong:
        raise CheckpointError(f"EfficientNet-Lite weights do not fit this spec: {len(wrong)} entries differ (first: {wrong[0]})")
    return {name: ours[name] for name in expected}
