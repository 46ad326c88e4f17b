"""Weights as plain state dicts: cut a smaller detector out of a larger state, reorder channels, grow a larger one.

Nothing here knows a layer type: every transform follows the table of named axes (`jdnas.models.axes.state_axes`).
`cut` gives views; `morph` (and `permute` and `grow`, its two pure cases) gives copies, one tensor at a time.
"""

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.axes import Axis, TensorAxes, state_axes
from jdnas.models.detector import Detector, build
from jdnas.spec import DetectorSpec

State = dict[str, Tensor]
Place = tuple[int, int]  # stage and position of a backbone block
_BLOCK = re.compile(r"backbone\.stages\.(\d+)\.(\d+)\.")
_NOTHING: Mapping[str, Tensor] = MappingProxyType({})


# The caches hold a few hundred kilobytes per spec and a search visits thousands, so they stay short.
@lru_cache(maxsize=64)
def meta_detector(spec: DetectorSpec) -> Detector:
    """Return a detector of `spec` without storage, to be called with a state; shared, so callers leave it as it is."""
    return build(spec, device="meta")


@lru_cache(maxsize=256)
def axes_of(spec: DetectorSpec) -> Mapping[str, TensorAxes]:
    """Return the named axes of every entry of a state of `spec`."""
    return MappingProxyType(state_axes(meta_detector(spec)))


@lru_cache(maxsize=256)
def shapes_of(spec: DetectorSpec) -> Mapping[str, torch.Size]:
    """Return the shape of every entry of a state of `spec`."""
    return MappingProxyType({name: tensor.shape for name, tensor in meta_detector(spec).state_dict().items()})


def widths_of(spec: DetectorSpec) -> dict[str, int]:
    """Return the width of every named axis of `spec`."""
    return {axis.name: axis.width for axes in axes_of(spec).values() for axis in axes if axis is not None}


def check_state(state: State, spec: DetectorSpec, *, source: str = "state") -> None:
    """Raise a CheckpointError that lists missing, unexpected and misshapen entries of `state` for `spec`."""
    shapes = shapes_of(spec)
    missing, extra = sorted(set(shapes) - set(state)), sorted(set(state) - set(shapes))
    wrong = [f"{n} is {tuple(state[n].shape)}, needs {tuple(s)}" for n, s in shapes.items() if n in state and state[n].shape != s]
    if missing or extra or wrong:
        found = [f"{len(group)} {what} (first: {group[0]})" for what, group in
                 (("missing", missing), ("unexpected", extra), ("of another shape", wrong)) if group]  # fmt: skip
        raise CheckpointError(f"{source} does not fit spec {spec.key}: {', '.join(found)}")


def _holds(have: torch.Size, need: torch.Size) -> bool:
    return len(have) == len(need) and all(h >= n for h, n in zip(have, need, strict=True))


def cut(state: State, spec: DetectorSpec) -> State:
    """Return the views of a larger `state` that `spec` uses: its first blocks and the first channels of every axis.

    The views share storage with `state`, so gradients and in-place updates reach it. A CheckpointError names the first
    entry that `state` lacks or holds too small.
    """
    views: State = {}
    for name, shape in shapes_of(spec).items():
        if name not in state or not _holds(state[name].shape, shape):
            got = tuple(state[name].shape) if name in state else "nothing"
            raise CheckpointError(f"cannot cut spec {spec.key} out of this state: {name} needs {tuple(shape)}, got {got}")
        views[name] = state[name][tuple(slice(0, size) for size in shape)]
    return views


def block_prefix(place: Place) -> str:
    """Return what the names of all entries of a backbone block start with."""
    return f"backbone.stages.{place[0]}.{place[1]}."


def residual_norms(spec: DetectorSpec) -> dict[Place, str]:
    """Return, for every backbone block, the name of the norm that ends its residual branch."""
    norms: dict[Place, str] = {}
    for i, blocks in enumerate(meta_detector(spec).backbone.stages):
        for j, block in enumerate(blocks):  # type: ignore[arg-type, var-annotated]
            norms[i, j] = f"{block_prefix((i, j))}{block.residual_norm}"
    return norms


def same_places(spec: DetectorSpec) -> dict[Place, Place]:
    """Return the places of all blocks of `spec`, each mapped to itself."""
    return {(i, j): (i, j) for i, depth in enumerate(spec.depths) for j in range(depth)}


def _sources(target: DetectorSpec, places: Mapping[Place, Place]) -> Iterator[tuple[str, str | None]]:
    """Yield every entry of `target` with the entry it comes from, or None in blocks that come from nowhere."""
    for name in shapes_of(target):
        match = _BLOCK.match(name)
        if match is None:
            yield name, name
        else:
            source = places.get((int(match[1]), int(match[2])))
            yield name, None if source is None else block_prefix(source) + name[match.end() :]


def _entries(axis: Axis, channels: Tensor) -> Tensor:
    if axis.repeat == 1:
        return channels
    return (channels[:, None] * axis.repeat + torch.arange(axis.repeat)).flatten()


def _selected(tensor: Tensor, axes: TensorAxes, kept: Mapping[str, Tensor]) -> Tensor:
    for dim, axis in enumerate(axes):
        if axis is not None and axis.name in kept:
            tensor = tensor.index_select(dim, _entries(axis, kept[axis.name]).to(tensor.device))
    return tensor


def _fresh(name: str, shape: torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw an entry: He-normal weights, neutral norms, zero biases."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64, device=like.device)
    if ".offset." in name:  # a deformable convolution starts as a plain one
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    if len(shape) < 2:
        value = 1.0 if name.endswith((".weight", "running_var")) else 0.0
        return torch.full(shape, value, dtype=like.dtype, device=like.device)
    fan = math.prod(shape[1:]) if len(shape) == 2 else shape[0] * math.prod(shape[2:])
    return (torch.randn(shape, generator=generator) * math.sqrt(2 / fan)).to(like.device, like.dtype)


def _in_corner(old: Tensor, fresh: Tensor, axes: TensorAxes) -> Tensor:
    """Place `old` in the corner of `fresh`: what reads new channels becomes 0, what writes them keeps its fresh values."""
    for dim, axis in enumerate(axes):
        if axis is not None and dim != 0:
            fresh.narrow(dim, old.shape[dim], fresh.shape[dim] - old.shape[dim]).zero_()
    fresh[tuple(slice(0, size) for size in old.shape)] = old
    return fresh


def morph(
    state: State, spec: DetectorSpec, target: DetectorSpec, *,
    kept: Mapping[str, Tensor] = _NOTHING, places: Mapping[Place, Place] | None = None, seed: int = 0, consume: bool = False,
) -> State:  # fmt: skip
    """Return a copy of `state` as a state of `target`: first channels and blocks are taken, then new ones are added.

    `kept` lists, for named axes of `spec`, the channels that stay, in their new order (the others stay as they are). `places`
    gives the block of `spec` that each block of `target` inherits; the default is the block at the same place, if there is one.
    New channels get fresh writers and zero readers, new blocks are identities (last norm 0), so that what was added does not
    change the function. A CheckpointError names an entry of `state` that does not fit `spec` or is larger than in `target`.

    With `consume`, entries leave `state` as they are used and go over uncopied where they can, so that memory never holds both whole.
    """
    check_state(state, spec)
    old_axes, axes, shapes = axes_of(spec), axes_of(target), shapes_of(target)
    known = same_places(spec) if places is None else places
    like, generator = state["backbone.stem.conv.weight"], torch.Generator().manual_seed(seed)
    result: State = {}
    for name, source in _sources(target, known):
        if source is None:
            result[name] = _fresh(name, shapes[name], generator, like)
            continue
        given = state.pop(source) if consume else state[source]
        tensor = _selected(given, old_axes[source], kept)
        if tensor.shape == shapes[name]:
            result[name] = tensor.clone() if tensor is given and not consume else tensor
        elif _holds(shapes[name], tensor.shape):
            result[name] = _in_corner(tensor, _fresh(name, shapes[name], generator, like), axes[name])
        else:
            raise CheckpointError(f"cannot grow {source} of {tuple(tensor.shape)} into {name} of {tuple(shapes[name])}: it is larger")
    for place, norm in residual_norms(target).items():
        if place not in known:
            _silence(result, norm, place)
    return result


def _silence(state: State, norm: str, place: Place) -> None:
    if place[1] == 0:
        raise CheckpointError(f"cannot grow: {block_prefix(place)[:-1]} is its stage's first block, which cannot be a new identity")
    state[f"{norm}.weight"].zero_()
    state[f"{norm}.bias"].zero_()


def permute(state: State, spec: DetectorSpec, orders: Mapping[str, Tensor]) -> State:
    """Return a copy of `state` with channel `orders[name][i]` of each named axis moved to place i; the function stays.

    Only permutations of whole axes are taken; a ValueError names an axis that `spec` lacks or an order that is none.
    """
    widths = widths_of(spec)
    for name, order in orders.items():
        if name not in widths or not torch.equal(order.cpu().sort().values, torch.arange(widths[name])):
            raise ValueError(f"order of axis {name!r} is not a permutation of its {widths.get(name, 0)} channels")
    return morph(state, spec, spec, kept=orders)


def grow(state: State, spec: DetectorSpec, larger: DetectorSpec, *, seed: int = 0) -> State:
    """Return a state of `larger` that computes the function of `state`, which is one of `spec` (evaluation mode).

    New channels get fresh writers and zero readers; blocks past the depth of `spec` become identities (last norm 0). A
    CheckpointError says where `larger` is the smaller one.
    """
    if any(have > need for have, need in zip(spec.depths, larger.depths, strict=True)):
        raise CheckpointError(f"cannot grow depths {spec.depths} into {larger.depths}: a stage has fewer blocks")
    return morph(state, spec, larger, seed=seed)


def carry(
    tensors: State, spec: DetectorSpec, target: DetectorSpec, *, kept: Mapping[str, Tensor] = _NOTHING,
    places: Mapping[Place, Place] | None = None,
) -> State:  # fmt: skip
    """Take per-parameter tensors, such as an optimizer's momentum, through the same change as `morph` does weights.

    `tensors` may hold any entries of a state of `spec`, by name. New channels get zeros; entries of new blocks are left out. A scalar,
    such as a parameter's number of steps, goes with its entry.
    """
    old_axes, shapes = axes_of(spec), shapes_of(target)
    carried: State = {}
    for name, source in _sources(target, same_places(spec) if places is None else places):
        if source is not None and source in tensors:
            if not tensors[source].dim():
                carried[name] = tensors[source].clone()
                continue
            tensor = _selected(tensors[source], old_axes[source], kept)
            carried[name] = tensor.new_zeros(shapes[name])
            carried[name][tuple(slice(0, size) for size in tensor.shape)] = tensor
    return carried
