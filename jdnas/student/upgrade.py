"""Changes that no search makes: deformable convolutions and a cascade head for a trained detector, with its weights inherited.

The paper ends its search from X101 so (Joint-DetNAS, Table 6): the searched detector gets both and is fine-tuned.
"""

from dataclasses import replace

from torch import Tensor

from jdnas.errors import ConfigError
from jdnas.models.cascade import DELTA_WEIGHTS
from jdnas.models.weights import State, check_state, shapes_of
from jdnas.spec import DetectorSpec

_BOX_HEAD, _OFFSET = "box_head.", ".offset."
_DELTAS = ("box_deltas.weight", "box_deltas.bias")


def upgraded_spec(spec: DetectorSpec, *, deformable: tuple[int, ...] = (), modulated: bool = False, cascade: bool = False) -> DetectorSpec:
    """Return `spec` with more deformable stages and, if `cascade`, a cascade head; a ConfigError says why that cannot be.

    Stages that are deformable stay so. All of a detector's deformable stages are modulated or none is.
    """
    if spec.deformable and deformable and spec.modulated != modulated:
        kind = "modulated" if spec.modulated else "not modulated"
        raise ConfigError(f"the deformable stages of this detector are {kind}, and all of one are alike; ask for the same kind")
    upgraded = spec
    if deformable:
        upgraded = replace(spec, deformable=tuple(sorted({*spec.deformable, *deformable})), modulated=modulated)
    if cascade:
        upgraded = replace(upgraded, head=replace(upgraded.head, kind="cascade"))
    if upgraded == spec:
        raise ConfigError("nothing to upgrade: give stages that are not deformable yet, or a cascade head for a detector without one")
    return upgraded


def upgrade(state: State, spec: DetectorSpec, target: DetectorSpec) -> State:
    """Return the weights of `target = upgraded_spec(spec, ...)`, inherited from `state`.

    A deformable convolution starts where it computes what the plain one did: offsets are 0, and where new ones are modulated the weights
    are doubled, since its scales start at 1/2. The first head of a cascade is the box head, with the mean over foreground classes of its
    boxes; the later ones start as that head looking again: the same movement of a box, in the units of their own deltas.
    """
    check_state(state, spec)
    added, new_head = set(target.deformable) - set(spec.deformable), spec.head.kind != target.head.kind
    result: State = {}
    for name, shape in shapes_of(target).items():
        if name in state and not (name.endswith(_DELTAS) and new_head):
            result[name] = 2 * state[name] if target.modulated and _is_deformable(name, added) else state[name].clone()
        elif _OFFSET in name:
            result[name] = state["backbone.stem.conv.weight"].new_zeros(shape)
        else:
            result[name] = _of_box_head(state, name, spec)
    check_state(result, target)
    return result


def _is_deformable(name: str, stages: set[int]) -> bool:
    """Tell whether an entry is the weight of a deformable convolution of one of `stages`."""
    return any(name.startswith(f"backbone.stages.{stage}.") for stage in stages) and name.endswith(".conv2.conv.weight")


def _of_box_head(state: State, name: str, spec: DetectorSpec) -> Tensor:
    """Return an entry of a box head: copied, or boxes of all classes made those of none and scaled for a later head."""
    head, entry = (0, name) if name.startswith(_BOX_HEAD) else (int(name.split(".")[1]) + 1, _BOX_HEAD + name.split(".", 2)[2])
    given = state[entry].clone()
    if not name.endswith(_DELTAS):
        return given
    by_class = given.reshape(spec.num_classes + 1, 4, *given.shape[1:])
    shift, scale = (own / first for own, first in zip(DELTA_WEIGHTS[head], DELTA_WEIGHTS[0], strict=True))
    factors = given.new_tensor((shift, shift, scale, scale))
    agnostic: Tensor = by_class[1:].mean(0)
    return agnostic * factors.reshape(4, *(1,) * (given.dim() - 1))
