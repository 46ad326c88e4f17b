"""Which project wrote a state dict."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.checkpoints import classifiers, detectron2, mmdetection, torchvision
from jdnas.models.checkpoints.origin import Converted
from jdnas.models.checkpoints.reading import Archive


@dataclass(frozen=True)
class Layout:
    """A project's layout: how it is recognized and read. `convert(archive, config, norm_eps)`."""

    name: str
    matches: Callable[[Mapping[str, Tensor]], bool]
    convert: Callable[[Archive, Mapping[str, Any] | None, float | None], Converted]
    takes_config: bool = False


LAYOUTS = (
    Layout("torchvision Faster R-CNN", torchvision.matches, torchvision.convert),
    Layout("detectron2 Faster R-CNN", detectron2.matches, detectron2.convert, takes_config=True),
    Layout("mmdetection Faster R-CNN", mmdetection.matches, mmdetection.convert, takes_config=True),
    Layout("ResNet classifier", classifiers.matches_resnet, classifiers.convert_resnet),
    Layout("MobileNet classifier", classifiers.matches_mobilenet, classifiers.convert_mobilenet),
    Layout("EfficientNet-Lite classifier", classifiers.matches_lite, classifiers.convert_lite),
)
# What else people have: a part of an entry's name, and what it is the mark of.
_OTHERS = (
    ("bbox_head.retina_cls", "a RetinaNet"),
    ("head.cls_subnet", "a RetinaNet"),
    ("head.classification_head", "a RetinaNet or FCOS"),
    ("decode_head.", "a segmentation network"),
    ("classifier.4.", "a segmentation network"),
    ("transformer.", "a transformer"),
    ("blocks.0.attn.", "a vision transformer"),
    ("encoder_layer_0.", "a vision transformer"),
    ("layers.0.blocks.0.attn", "a Swin transformer"),
    ("self_attn", "a transformer"),
    ("roi_heads.res5.", "a Faster R-CNN without FPN (C4)"),
    ("backbone.res4.", "a Faster R-CNN without FPN (C4)"),
    ("conv1.0.weight", "a ResNet with a deep stem (ResNet-D)"),
    ("stem.0.weight", "a ResNet with a deep stem (ResNet-D)"),
    ("model.0.conv.weight", "a YOLO"),
    ("0.conv.weight", "a YOLO"),
    ("backbone.stem.conv.weight", "jdnas, whose .json is not beside it"),
)


def layout_of(archive: Archive) -> Layout:
    """Return the layout of a file; a CheckpointError says what it looks like and what can be read."""
    found = next((layout for layout in LAYOUTS if layout.matches(archive.tensors)), None)
    if found is not None:
        return found
    raise CheckpointError(
        f"{archive.path} looks like {_guess(archive.tensors)}; what can be read: {', '.join(layout.name for layout in LAYOUTS)}"
    )


def _guess(names: Mapping[str, Tensor]) -> str:
    for mark, kind in _OTHERS:
        if any(mark in name for name in names):
            return f"the weights of {kind}"
    return f"weights that nothing here knows ({len(names)} entries, first: {', '.join(list(names)[:3])})"


def check_config(layout: Layout, path: Path) -> None:
    """Raise a CheckpointError where settings are given for a layout that has none."""
    if not layout.takes_config:
        raise CheckpointError(f"--config {path} is of no use for a {layout.name}; it is for detectron2 and mmdetection")
