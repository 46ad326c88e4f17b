"""Named axes: which named width every parameter and buffer axis follows.

Two axes with one name change together. That is all there is to channel coupling: residual additions, depthwise
convolutions and FPN laterals are coupled because their layers were built with the same name.
"""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, slots=True)
class Axis:
    """A named width. `repeat` consecutive entries belong to one channel where an axis is a flattened `[width, repeat]`."""

    name: str
    width: int
    repeat: int = 1

    @property
    def size(self) -> int:
        """Entries along the tensor dimension."""
        return self.width * self.repeat

    def flattened(self, repeat: int) -> "Axis":
        """Return the axis of this width flattened with `repeat` positions per channel."""
        return Axis(self.name, self.width, repeat)


TensorAxes = tuple[Axis | None, ...]


class NamedAxes:
    """Mixin of layers that know the axes of their own tensors."""

    axes: dict[str, TensorAxes]


def state_axes(model: nn.Module) -> dict[str, TensorAxes]:
    """Return, for every entry of `model.state_dict()`, one `Axis` (or None for a dimension that is not a width) per dimension."""
    table: dict[str, TensorAxes] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, NamedAxes):
            for name, axes in module.axes.items():
                table[f"{prefix}.{name}" if prefix else name] = axes
    missing = set(model.state_dict()) - set(table)
    if missing:
        raise TypeError(f"layers without named axes hold {sorted(missing)[:5]}; build them from jdnas.models.layers")
    return table
