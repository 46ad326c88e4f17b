"""Inverted residuals in torchvision's numbering: MobileNetV2 and V3."""

import re
from collections.abc import Iterable, Mapping
from itertools import groupby

from torch import Tensor

_V2_EXPANDED = {
    "conv.0.0": "expand.conv", "conv.0.1": "expand.norm", "conv.1.0": "depthwise.conv", "conv.1.1": "depthwise.norm",
    "conv.2": "project.conv", "conv.3": "project.norm",
}  # fmt: skip
_V2_PLAIN = {"conv.0.0": "depthwise.conv", "conv.0.1": "depthwise.norm", "conv.1": "project.conv", "conv.2": "project.norm"}


def stages_by_width(widths: Iterable[int]) -> list[tuple[int, int]]:
    """Return the place (stage, position) of every block, given the output widths: a new width begins a stage."""
    runs = [len(list(run)) for _, run in groupby(widths)]
    return [(stage, position) for stage, depth in enumerate(runs) for position in range(depth)]


def mobilenet_names(tensors: Mapping[str, Tensor], prefix: str, *, with_tail: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Return the entries under our names, and those of theirs that are left: `prefix` is followed by numbers of layers.

    Layer 0 is the stem, then come blocks, and a last convolution, which is taken as the tail if `with_tail` is set.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    left = []
    for name, tensor in tensors.items():
        found = re.fullmatch(re.escape(prefix) + r"(\d+)\.(.+)", name)
        if found:
            layers.setdefault(int(found[1]), {})[found[2]] = tensor
        else:
            left.append(name)
    numbers = [number for number in sorted(layers) if any(part.startswith(("conv.", "block.")) for part in layers[number])]
    tables = {number: _table(layers[number]) for number in numbers}
    places = stages_by_width(_width(layers[number], tables[number]) for number in numbers)
    homes = {0: "backbone.stem", **{n: f"backbone.stages.{s}.{p}" for n, (s, p) in zip(numbers, places, strict=True)}}
    if with_tail and numbers:
        homes[numbers[-1] + 1] = "backbone.tail"
    ours: dict[str, Tensor] = {}
    for number, layer in layers.items():
        table = tables.get(number, {"0": "conv", "1": "norm"})
        for part, tensor in layer.items():
            where, _, kind = part.rpartition(".")
            if number in homes and where in table:
                ours[f"{homes[number]}.{table[where]}.{kind}"] = tensor
            else:
                left.append(f"{prefix}{number}.{part}")
    return ours, left


def _table(block: Mapping[str, Tensor]) -> dict[str, str]:
    """Return where the layers of a block go, by what it has: an expansion, a squeeze."""
    if "conv.0.0.weight" in block:
        return _V2_EXPANDED if block["conv.0.0.weight"].shape[1] > 1 else _V2_PLAIN
    roles = ["expand"] if block["block.0.0.weight"].shape[1] > 1 else []
    roles.append("depthwise")
    if any(".fc1." in part for part in block):
        roles.append("squeeze")
    roles.append("project")
    table: dict[str, str] = {}
    for index, role in enumerate(roles):
        parts = {"fc1": "reduce", "fc2": "expand"} if role == "squeeze" else {"0": "conv", "1": "norm"}
        table |= {f"block.{index}.{theirs}": f"{role}.{ours}" for theirs, ours in parts.items()}
    return table


def _width(block: Mapping[str, Tensor], table: Mapping[str, str]) -> int:
    project = next(theirs for theirs, ours in table.items() if ours == "project.conv")
    return len(block[f"{project}.weight"])
