"""Several files of one detector timed on the target, to take the fastest."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from latency.device_lock import held_device
from latency.here import check_here
from latency.subjects import open_engine
from latency.targets import Target
from latency.timing import Timing, flat, sample_in_turns, timing_from_samples

_BURST_S = 0.05


def time_alternatives(paths: Sequence[Path], target: Target, *, seconds: float) -> list[Timing]:
    """Run artifacts in turns, each for about `seconds`, and return their timings; a TargetError where the target is not this machine."""
    check_here(target)
    with held_device(target), ExitStack() as stack:
        subjects = [stack.enter_context(closing(open_engine(path, target))) for path in paths]
        turns = sample_in_turns([one.call for one in subjects], seconds=seconds, burst_s=_BURST_S)
        return [timing_from_samples(flat(own)) for own in turns]
