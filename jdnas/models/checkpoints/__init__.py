"""Weights of other projects' detectors and backbones: found out, read, converted into ours, and written back.

`import_checkpoint` is the way in: reading.py reads a file without running code, layouts.py says which project wrote it, that project's
file translates names and conventions into an `Origin`, spec_of.py infers the architecture and folding.py folds what differs into weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.checkpoints.classifiers import state_from_efficientnet_lite
from jdnas.models.checkpoints.folding import fold
from jdnas.models.checkpoints.layouts import check_config, layout_of
from jdnas.models.checkpoints.origin import Converted
from jdnas.models.checkpoints.reading import Archive, read_archive
from jdnas.models.checkpoints.report import ImportReport
from jdnas.models.checkpoints.settings_file import read_settings
from jdnas.models.checkpoints.spec_of import infer_spec
from jdnas.models.checkpoints.torchvision import state_from_torchvision
from jdnas.models.detector import build
from jdnas.models.weights import shapes_of
from jdnas.spec import DetectorSpec

__all__ = ["ImportReport", "Imported", "import_archive", "import_checkpoint", "state_from_efficientnet_lite", "state_from_torchvision"]

COCO_CLASSES = 80
_PARTS = ("fpn.", "rpn.", "box_head.", "cascade.")
_LISTED = 4


@dataclass(frozen=True)
class Imported:
    """A foreign detector as ours: `state` is a whole state of `spec`; its `fresh` entries are newly drawn, since the file has none.

    `classes` and `size_hw` (height, width) are empty or None where the file does not say.
    """

    spec: DetectorSpec
    state: dict[str, Tensor]
    fresh: frozenset[str]
    classes: tuple[str, ...]
    size_hw: tuple[int, int] | None
    report: ImportReport


def import_checkpoint(path: Path, *, config: Path | None = None, norm_eps: float | None = None, seed: int = 0) -> Imported:
    """Read a weight file of torchvision, detectron2, mmdetection, timm or efficientnet-pytorch.

    `config` is the settings file of its project, where the weights do not tell all; `norm_eps` the epsilon that batch normalization was
    computed with; `seed` draws the parts that a classifier's file lacks. A CheckpointError says what cannot be read or represented.
    """
    return import_archive(read_archive(path), config=config, norm_eps=norm_eps, seed=seed)


def import_archive(archive: Archive, *, config: Path | None = None, norm_eps: float | None = None, seed: int = 0) -> Imported:
    """Convert a file that is read already; the rest is as in `import_checkpoint`."""
    path, layout = archive.path, layout_of(archive)
    if config is not None:
        check_config(layout, config)
    converted = layout.convert(archive, None if config is None else read_settings(config), norm_eps)
    if converted.unknown:
        raise CheckpointError(
            f"{path} is a {layout.name} with parts that have no counterpart here: {len(converted.unknown)} entries, "
            f"such as {', '.join(converted.unknown[:_LISTED])}"
        )
    try:
        spec = infer_spec(converted, num_classes=COCO_CLASSES)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is a {layout.name}, but {error}") from error
    tensors, notes = fold(converted.tensors, converted.origin, spec)
    state, fresh = _completed(tensors, spec, path, layout.name, seed)
    classes, guess = _class_names(converted, spec)
    assumed = (*converted.origin.assumed, *guess)
    report = ImportReport(str(path), layout.name, spec, len(tensors), converted.dropped, tuple(fresh), tuple(notes), assumed)
    return Imported(spec, state, frozenset(fresh), classes, converted.origin.size_hw, report)


def _completed(
    tensors: Mapping[str, Tensor], spec: DetectorSpec, path: Path, layout: str, seed: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Return a whole state of `spec` with these tensors in it, and the names of those that were drawn: of parts that the file lacks."""
    shapes = shapes_of(spec)
    absent = tuple(part for part in _PARTS if not any(name.startswith(part) for name in tensors))
    fresh = [name for name in shapes if name.startswith(absent)] if absent else []
    counters = [name for name in shapes if name.endswith("num_batches_tracked")]
    missing = [name for name in shapes if name not in tensors and name not in fresh and name not in counters]
    reshaped = [
        f"{name} is {tuple(tensors[name].shape)}, needs {tuple(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    surplus = [name for name in tensors if name not in shapes]
    problems = [
        f"{len(names)} {kind} ({'; '.join(names[:_LISTED])}{'; ...' if len(names) > _LISTED else ''})"
        for kind, names in (("missing", missing), ("of another shape", reshaped), ("without a counterpart", surplus))
        if names
    ]
    if problems:
        raise CheckpointError(f"{path} is a {layout} that does not fit together; entries {', '.join(problems)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = build(spec).state_dict() if fresh else {name: torch.zeros((), dtype=torch.int64) for name in counters}
    return {name: tensors[name] if name in tensors else state[name] for name in shapes}, fresh


def _class_names(converted: Converted, spec: DetectorSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the class names, and a line where they are guessed; none where neither the file nor their number tells them."""
    if len(converted.origin.classes) == spec.num_classes:
        return converted.origin.classes, ()
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    coco: tuple[Any, ...] = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])
    used = tuple(name for name in coco if name != "N/A")
    is_detector = any(name.startswith("box_head.") for name in converted.tensors)
    found = next((names for names in (used, coco) if is_detector and len(names) == spec.num_classes), ())
    return found, ((f"the names of COCO's {len(found)} classes",) if found else ())
