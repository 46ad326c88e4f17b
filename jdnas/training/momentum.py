"""An optimizer's state by the names of what it trains, so that it can go where its parameters go."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from jdnas.models.weights import State, shapes_of
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import load_tensors, save_tensors


def named_momentum(optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the optimizer's tensors as `<kind>.<name>`, such as `exp_avg.fpn.lateral.0.weight`.

    `named`: the trained tensors by name. Steps that an optimizer counts per parameter are among them.
    """
    found = {}
    for name, parameter in named.items():
        for kind, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found[f"{kind}.{name}"] = value.detach().clone()
    return found


def set_momentum(optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor], momentum: Mapping[str, Tensor]) -> int:
    """Let an optimizer that has not stepped yet go on from what `named_momentum` returned; return how many parameters that reached.

    A parameter without an entry, or with one of another shape, starts anew.
    """
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in momentum.items():
        kind, name = key.split(".", 1)
        by_name.setdefault(name, {})[kind] = value
    index_of = {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    entries = {}
    for name, values in by_name.items():
        like = named.get(name)
        if like is None or id(like) not in index_of or any(value.dim() and value.shape != like.shape for value in values.values()):
            continue
        # In the parameter's memory layout, which fused optimizers rely on; load_state_dict takes care of devices.
        entries[index_of[id(like)]] = {
            kind: torch.empty_like(like, requires_grad=False).copy_(value) if value.dim() else value for kind, value in values.items()
        }
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    return len(entries)


def _file_of(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.optimizer.safetensors")


def save_momentum(stem: Path, spec: DetectorSpec, momentum: State | None) -> None:
    """Keep the optimizer state of a detector's own entries beside it, for those that inherit from it; nothing where it is None."""
    if momentum is not None:
        save_tensors(_file_of(stem), {key: t for key, t in momentum.items() if key.partition(".")[2] in shapes_of(spec)})


def load_momentum(stem: Path) -> State:
    """Read what `save_momentum` kept for a detector; empty where it kept nothing."""
    return load_tensors(_file_of(stem)) if _file_of(stem).exists() else {}
