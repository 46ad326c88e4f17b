"""Tables that translate entry names of other projects into ours."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

Rules = tuple[tuple[re.Pattern[str], str], ...]
_SHIFTED = re.compile(r"<(\d+)([+-]\d+)>")


def rules(*pairs: tuple[str, str]) -> Rules:
    r"""Compile (pattern, replacement) pairs; the first that matches a whole name renames it, and `<\1-2>` is a number less two."""
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


def renamed(name: str, table: Rules) -> str | None:
    """Return our name for an entry, or None."""
    for pattern, replacement in table:
        found = pattern.fullmatch(name)
        if found:
            return _SHIFTED.sub(lambda number: str(int(number[1]) + int(number[2])), found.expand(replacement))
    return None


def translate(tensors: Mapping[str, Tensor], table: Rules, drop: Iterable[str]) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Return the tensors under our names, the names that begin with one of `drop`, and the names that nothing knows."""
    ours: dict[str, Tensor] = {}
    dropped, unknown, leave = [], [], tuple(drop)
    for name, tensor in tensors.items():
        new = renamed(name, table)
        if new is not None:
            ours[new] = tensor
        elif name.startswith(leave):
            dropped.append(name)
        else:
            unknown.append(name)
    return ours, dropped, unknown


def box_head_rules(head: str, predictor: str, *layers: tuple[str, str]) -> Rules:
    """Return the table of box heads whose layers, (theirs, ours), follow `head` or `predictor`: one head, or a cascade's numbered ones.

    A `{}` in the prefixes stands for the number and its dot. The first head of a cascade is our box head, the others come after it.
    """
    numbers = (("", "box_head"), (r"0\.", "box_head"), (r"(?P<n>[1-9])\.", r"cascade.<\g<n>-1>"))
    return rules(
        *(
            ((predictor if ours in ("class_logits", "box_deltas") else head).replace("{}", number) + theirs, f"{place}.{ours}.\\g<kind>")
            for number, place in numbers
            for theirs, ours in layers
        )
    )


def with_neck_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with the FPN's convolutions named as they are beside batch normalization, where the FPN has some."""
    if not any(name.startswith("fpn.lateral.0.norm.") for name in tensors):
        return tensors
    return {re.sub(r"^(fpn\.(?:lateral|output)\.\d+)\.(weight|bias)$", r"\1.conv.\2", name): tensor for name, tensor in tensors.items()}


def resnet_rules(prefix: str) -> Rules:
    """Return the table of a ResNet in torchvision's layout, which mmdetection and timm share, whose names begin with `prefix`."""
    block = prefix + r"layer(\d)\.(\d+)\."
    return rules(
        (prefix + r"conv1\.(\w+)", r"backbone.stem.conv.\1"),
        (prefix + r"bn1\.(\w+)", r"backbone.stem.norm.\1"),
        (block + r"conv(\d)\.(\w+)", r"backbone.stages.<\1-1>.\2.conv\3.conv.\4"),
        (block + r"conv(\d)\.conv_offset\.(\w+)", r"backbone.stages.<\1-1>.\2.conv\3.conv.offset.\4"),
        (block + r"bn(\d)\.(\w+)", r"backbone.stages.<\1-1>.\2.conv\3.norm.\4"),
        (block + r"downsample\.0\.(\w+)", r"backbone.stages.<\1-1>.\2.shortcut.conv.\3"),
        (block + r"downsample\.1\.(\w+)", r"backbone.stages.<\1-1>.\2.shortcut.norm.\3"),
    )
