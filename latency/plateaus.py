"""Widths that pay: a runtime computes some channels at a time, and a width within such a step costs as much as one at its end."""

from collections import Counter
from collections.abc import Callable

from latency.blocks import REST
from latency.sources import LatencySource, TableSource

_PRIOR_STEP = 8  # what the formula of a prior rounds widths to


def width_step(source: LatencySource) -> int:
    """Return the channels that a target computes at a time: the step of the families that take most of its table's time."""
    if not isinstance(source, TableSource):
        return _PRIOR_STEP
    predictor = source.predictor
    votes: Counter[int] = Counter()
    for block, timing in predictor.table.blocks.items():
        if block.family not in (REST, "linear"):
            votes[predictor.width_step(block.family)] += round(1e6 * timing.median_ms)
    return votes.most_common(1)[0][0] if votes else 1


def widths_that_pay(source: LatencySource) -> Callable[[int], int]:
    """Return `pays(width)`: the widest width that is not wider and lies at the end of a step; widths within the first step stay."""
    step = width_step(source)
    return lambda width: width if width < step else width // step * step
