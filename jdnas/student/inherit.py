"""Weight inheritance: f_evolve of Joint-DetNAS, sections 3.1.2 and 3.3, from a student and an action to the next student.

`decide` looks at the weights once and gives plain data; `transform` applies that to a state, `carry_along` to whatever else
is kept per parameter, such as momentum.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jdnas.errors import ConfigError
from jdnas.models.weights import Place, State, block_prefix, carry, morph, residual_norms, same_places, shapes_of, widths_of
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Action, ActionRules, group_width_of, prunable_widths, with_widths
from jdnas.student.channels import channels_that_stay
from jdnas.student.heads import HEAD_KINDS, HeadKind, head_size, with_head_size
from jdnas.student.importance import block_scores, prunable_axes, writer_scores


@dataclass(frozen=True)
class Decision:
    """What an action does to one student.

    `kept`: channels that stay, for each named axis of `spec` that loses some. `places`: for each block of `target` that inherits
    one of `spec`, which. `moved`: new and old place of a block whose overlapping slices start a new identity block.
    """

    spec: DetectorSpec
    target: DetectorSpec
    places: Mapping[Place, Place]
    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    moved: tuple[Place, Place] | None = None
    seed: int = 0


Decide = Callable[[State, DetectorSpec, Action, ActionRules, int], Decision]


def _without_block(spec: DetectorSpec, places: Mapping[Place, Place], gone: Place) -> tuple[DetectorSpec, dict[Place, Place]]:
    stage, position = gone
    smaller = spec.with_stage(stage, spec.stages[stage].without(position))
    shifted = {(i, j - (i == stage and j > position)): old for (i, j), old in places.items() if (i, j) != gone}
    return smaller, shifted


def _with_block(spec: DetectorSpec, places: Mapping[Place, Place], new: Place) -> tuple[DetectorSpec, dict[Place, Place]]:
    stage, position = new
    larger = spec.with_stage(stage, spec.stages[stage].with_copy(position))
    return larger, {(i, j + (i == stage and j >= position)): old for (i, j), old in places.items()}


def _illegal(action: Action, spec: DetectorSpec, why: str) -> ConfigError:
    return ConfigError(f"{action.kind} is not legal for a student of depths {spec.depths}: {why}")


def _check_stage(action: Action, spec: DetectorSpec, stage: int) -> None:
    if not 0 <= stage < len(spec.stages):
        raise _illegal(action, spec, f"there is no stage {stage}")


def _block_to_remove(state: State, spec: DetectorSpec, action: Action, rules: ActionRules) -> Place:
    if action.stage != -1:
        _check_stage(action, spec, action.stage)
    stages = [i for i in range(len(spec.stages)) if action.stage in (-1, i) and rules.can_lose_block(spec, i)]
    scores = {
        place: score for place, score in block_scores(state, spec).items() if place[0] in stages and action.position in (-1, place[1])
    }
    if not scores:
        raise _illegal(action, spec, f"no block of stage {action.stage} at position {action.position} may be removed (-1: any)")
    return min(scores, key=lambda place: (scores[place], place))


def _place_to_insert(spec: DetectorSpec, action: Action, rules: ActionRules) -> Place:
    _check_stage(action, spec, action.stage)
    depth = spec.stages[action.stage].depth
    position = depth if action.position == -1 else action.position
    if not 1 <= position <= depth:
        raise _illegal(action, spec, f"position {position} of stage {action.stage} is not in 1..{depth}")
    if not rules.can_gain_block(spec, action.stage):
        raise _illegal(action, spec, f"stage {action.stage} is at its maximum depth")
    return action.stage, position


def _decide_rearrange(state: State, spec: DetectorSpec, action: Action, rules: ActionRules, seed: int) -> Decision:
    _check_stage(action, spec, action.stage)
    _check_stage(action, spec, action.target)
    if abs(action.target - action.stage) != 1:
        raise _illegal(action, spec, f"stages {action.stage} and {action.target} are no neighbours")
    if not rules.can_gain_block(spec, action.target):
        raise _illegal(action, spec, f"stage {action.target} is at its maximum depth")
    old = _block_to_remove(state, spec, action, rules)
    # Where the blocks next to it work at the closest resolution: after the first block of a later stage, at the end of an earlier one.
    new = (action.target, 1 if action.target > action.stage else spec.stages[action.target].depth)
    smaller, places = _without_block(spec, same_places(spec), old)
    target, places = _with_block(smaller, places, new)
    return Decision(spec, target, places, moved=(new, old), seed=seed)


def _decide_channels(state: State, spec: DetectorSpec, action: Action, rules: ActionRules) -> Decision:
    if not 0 < action.ratio < 1:
        raise _illegal(action, spec, f"ratio {action.ratio} is not between 0 and 1")
    kept = channels_that_stay(state, spec, action.ratio, rules)
    if not kept:
        raise _illegal(action, spec, f"every width is at its minimum of {max(rules.min_width, rules.width_step)} channels")
    axes = prunable_axes(spec)
    widths = {
        width: len(kept[axes[width][0]]) * group_width_of(spec, width) if axes[width][0] in kept else size
        for width, size in prunable_widths(spec).items()
    }
    return Decision(spec, with_widths(spec, widths), same_places(spec), kept=kept)


def _decide_head(state: State, spec: DetectorSpec, action: Action, kind: HeadKind, rules: ActionRules) -> Decision:
    if not 0 < action.ratio < 1:
        raise _illegal(action, spec, f"ratio {action.ratio} is not between 0 and 1")
    size = rules.smaller_head_size(kind, head_size(spec, kind), action.ratio)
    if not rules.heads or size is None:
        why = f"{head_size(spec, kind)} is its minimum" if rules.heads else "actions on heads are off (student.heads)"
        raise _illegal(action, spec, why)
    target = with_head_size(spec, kind, size, step=rules.width_step)
    after = widths_of(target)
    kept = {
        axis: tuple(writer_scores(state, spec, axis).argsort(descending=True, stable=True)[: after[axis]].sort().values.tolist())
        for axis, width in widths_of(spec).items()
        if after[axis] < width
    }
    return Decision(spec, target, same_places(spec), kept=kept)


def decide(state: State, spec: DetectorSpec, action: Action, rules: ActionRules, *, seed: int = 0) -> Decision:
    """Return what `action` does to a student; a ConfigError says why an action is not legal.

    `seed` is for the fresh weights of new blocks. Channel pruning removes the channels that rank lowest over all prunable axes, in
    steps of the target's width step, as close to the ratio as steps and minimum widths allow.
    """
    for extra in rules.extra:
        if action.kind == extra.kind:
            return extra.decide(state, spec, action, rules, seed)
    if action.kind == "prune_channels":
        return _decide_channels(state, spec, action, rules)
    if action.kind == "rearrange":
        return _decide_rearrange(state, spec, action, rules, seed)
    if action.kind in HEAD_KINDS:
        return _decide_head(state, spec, action, action.kind, rules)
    if action.kind == "add_layer":
        target, places = _with_block(spec, same_places(spec), _place_to_insert(spec, action, rules))
        return Decision(spec, target, places, seed=seed)
    target, places = _without_block(spec, same_places(spec), _block_to_remove(state, spec, action, rules))
    return Decision(spec, target, places)


def _tensors(kept: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {axis: torch.tensor(channels) for axis, channels in kept.items()}


def _overlay(new: Tensor, old: Tensor) -> None:
    """Copy what overlaps: the first channels, and kernels by their centres, with zeros around a smaller kernel."""
    for dim, (have, need) in enumerate(zip(old.shape, new.shape, strict=True)):
        size = min(have, need)
        if dim >= 2:
            if need > have:
                new.zero_()
            new, old = new.narrow(dim, (need - size) // 2, size), old.narrow(dim, (have - size) // 2, size)
        else:
            new, old = new.narrow(dim, 0, size), old.narrow(dim, 0, size)
    new.copy_(old)


def transform(state: State, decision: Decision, *, consume: bool = False) -> State:
    """Return the weights of `decision.target`, inherited from `state`.

    A copy, which takes the memory of the new student; with `consume` the old one's entries go over into it and leave `state`.
    """
    target = decision.target
    result = morph(state, decision.spec, target, kept=_tensors(decision.kept), places=decision.places, seed=decision.seed, consume=consume)
    if decision.moved is not None:
        new, old = (block_prefix(place) for place in decision.moved)
        silent = residual_norms(target)[decision.moved[0]]
        for name in shapes_of(target):
            source = old + name.removeprefix(new)
            if name.startswith(new) and source in state and name not in (f"{silent}.weight", f"{silent}.bias"):
                _overlay(result[name], state[source])
    return result


def carry_along(tensors: State, decision: Decision) -> State:
    """Take per-parameter tensors by name, such as momentum, through a decision; blocks that are new have none."""
    return carry(tensors, decision.spec, decision.target, kept=_tensors(decision.kept), places=decision.places)


def carry_momentum(momentum: State, decision: Decision) -> State:
    """Take an optimizer's state, keyed `<kind>.<entry>` (see `jdnas.training.momentum`), through a decision; new blocks have none."""
    kinds: dict[str, State] = {}
    for key, tensor in momentum.items():
        kind, name = key.split(".", 1)
        kinds.setdefault(kind, {})[name] = tensor
    return {f"{kind}.{name}": t for kind, tensors in kinds.items() for name, t in carry_along(tensors, decision).items()}


def evolve(state: State, spec: DetectorSpec, action: Action, rules: ActionRules, *, seed: int = 0) -> tuple[State, DetectorSpec]:
    """Apply an action to a student: weights that stay are inherited and new blocks start as identities.

    Deterministic in its arguments; `state` is left as it is. A ConfigError says why an action is not legal.
    """
    decision = decide(state, spec, action, rules, seed=seed)
    return transform(state, decision), decision.target
