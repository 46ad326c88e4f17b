"""Which channels a pruning takes: the least important ones over all prunable axes, in steps that a width may fall by."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jdnas.models.weights import State
from jdnas.spec import DetectorSpec
from jdnas.student.actions import ActionRules, group_width_of, prunable_widths
from jdnas.student.importance import channel_scores, prunable_axes


@dataclass(frozen=True)
class _Unit:
    """Channels that go together: of each axis of one width, `count` of its least important ones (or whole groups) that are left.

    `late` units would take more of their width than one action should, and go after all others.
    """

    late: bool
    score: float
    order: tuple[int, int]
    width: str
    count: int
    axes: int


def _units(spec: DetectorSpec, rankings: Mapping[str, list[Tensor]], scores: Mapping[str, list[Tensor]], rules: ActionRules) -> list[_Unit]:
    """Split every width, from its least important channels on, into the steps that may be removed."""
    units = []
    for rank, (width, orders) in enumerate(rankings.items()):
        group = group_width_of(spec, width)
        left = full = len(orders[0]) * group
        while (lower := rules.narrower(left, group)) is not None:
            start, stop = (len(orders[0]) - channels // group for channels in (left, lower))
            means = [float(s[o[start:stop]].mean()) for s, o in zip(scores[width], orders, strict=True)]
            late = full - lower > rules.max_width_loss * full
            units.append(_Unit(late, sum(means) / len(means), (rank, start), width, left - lower, len(orders)))
            left = lower
    return sorted(units, key=lambda unit: (unit.late, unit.score, unit.order))


def _choose(units: list[_Unit], goal: float) -> dict[str, int]:
    """Return how many channels each width loses so that the sum comes closest to `goal`; at least one unit goes."""
    removed, loses = 0, dict[str, int]()
    for unit in units:
        size = unit.count * unit.axes
        if removed and removed + size / 2 > goal:
            break
        removed += size
        loses[unit.width] = loses.get(unit.width, 0) + unit.count
    return loses


def channels_that_stay(state: State, spec: DetectorSpec, ratio: float, rules: ActionRules) -> dict[str, tuple[int, ...]]:
    """Return, for each axis that loses channels (or whole groups), those that stay; none where no width may fall.

    As many go as come closest to `ratio` of all prunable channels.
    """
    by_axis, axes = channel_scores(state, spec, rules.importance), prunable_axes(spec)
    scores = {width: [by_axis[axis] for axis in axes[width]] for width in prunable_widths(spec)}
    rankings = {width: [torch.argsort(s, stable=True) for s in group] for width, group in scores.items()}
    total = sum(len(s) * group_width_of(spec, width) for width, group in scores.items() for s in group)
    loses = _choose(_units(spec, rankings, scores, rules), ratio * total)
    return {
        axis: tuple(order[loses[width] // group_width_of(spec, width) :].sort().values.tolist())
        for width in loses
        for axis, order in zip(axes[width], rankings[width], strict=True)
    }
