"""What the reader of one project's layout hands on: its tensors under our names, and the conventions that they were trained with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jdnas.spec import Head

Four = tuple[float, float, float, float]
RPN_BOX_WEIGHTS: Four = (1.0, 1.0, 1.0, 1.0)
ROI_BOX_WEIGHTS: tuple[Four, ...] = ((10.0, 10.0, 5.0, 5.0),)
CASCADE_BOX_WEIGHTS: tuple[Four, ...] = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))


@dataclass(frozen=True)
class InputFormat:
    """What a network was trained to read: (value - mean) / std of pixels in 0..255, both in the order of its channels."""

    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    bgr: bool = False

    def describe(self) -> str:
        """Say it in a few words."""
        order = "BGR" if self.bgr else "RGB"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{order}, mean {mean}, std {std}"


@dataclass(frozen=True)
class Origin:
    """How a project's detector computes, beyond its weights.

    `family`: where blocks do not tell it. `head`: constants and conventions; its widths are read from the tensors. `image`: None for
    what our family reads anyway. `norm_eps`: of the backbone, None for the family's. `rpn_box_weights`, `roi_box_weights` (one per box
    head): factors of the box deltas (x, y, width, height). `assumed`: what the file does not say.
    """

    project: str
    family: str | None = None
    head: Head = field(default_factory=Head)
    stride_in_1x1: bool = False
    image: InputFormat | None = None
    norm_eps: float | None = None
    rpn_box_weights: Four = RPN_BOX_WEIGHTS
    roi_box_weights: tuple[Four, ...] = ROI_BOX_WEIGHTS
    classes: tuple[str, ...] = ()
    size_hw: tuple[int, int] | None = None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """Tensors under our names; names of theirs that were left out on purpose, and those that have no counterpart."""

    origin: Origin
    tensors: dict[str, Tensor]
    dropped: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def background_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `tensors` with the background, which detectron2 and mmdetection keep as the last class, as class 0.

    Box deltas of single classes get rows for the background, and deltas for all classes in common are repeated for each; both keep the
    function. Heads of a cascade keep their common deltas.
    """
    moved, cascade = dict(tensors), any(name.startswith("cascade.") for name in tensors)
    for name, tensor in tensors.items():
        if ".class_logits." in name:
            moved[name] = tensor.roll(1, 0)
        elif ".box_deltas." in name and not cascade:
            classes = len(tensors[name.replace("box_deltas", "class_logits")]) - 1
            if len(tensor) == 4 * classes:
                moved[name] = torch.cat((torch.zeros_like(tensor[:4]), tensor))
            elif len(tensor) == 4:
                moved[name] = tensor.repeat(classes + 1, *[1] * (tensor.dim() - 1))
    return moved


def rescaled_deltas(tensor: Tensor, theirs: Sequence[float], ours: Sequence[float]) -> Tensor:
    """Return weights or biases `[4 N, ...]` whose outputs, divided by our factors, are the deltas that theirs give divided by theirs."""
    factor = torch.tensor([o / t for o, t in zip(ours, theirs, strict=True)], dtype=torch.float64)
    rows = factor.repeat(len(tensor) // 4).reshape(-1, *[1] * (tensor.dim() - 1))
    return (tensor.double() * rows).float()
