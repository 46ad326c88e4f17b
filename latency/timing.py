"""Timing of calls: warm-up, samples until a time budget is spent, percentiles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

Clock = Callable[[], float]
_WARMUP, _LEAST_WINDOWS, _WINDOWS, _AGREE = 3, 8, 30, 1.03


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds per call: median, 5th and 95th percentile, and the number of samples."""

    median_ms: float
    p5_ms: float
    p95_ms: float
    repeats: int

    def scaled(self, factor: float) -> "Timing":
        """Return this timing with every duration multiplied by `factor`."""
        return Timing(self.median_ms * factor, self.p5_ms * factor, self.p95_ms * factor, self.repeats)


def timing_from_samples(samples_ms: Sequence[float]) -> Timing:
    """Summarize samples in milliseconds; needs at least one."""
    low, high = np.percentile(samples_ms, (5, 95))
    return Timing(float(median(samples_ms)), float(low), float(high), len(samples_ms))


def time_call(call: Callable[[], object], *, seconds: float, warmup: int = 3, least: int = 5, clock: Clock = perf_counter) -> Timing:
    """Run `call` for about `seconds` (at least `least` samples after `warmup` runs) and summarize its durations."""
    return time_interleaved([call], seconds=seconds, warmup=warmup, least=least, clock=clock)[0]


def steadiest(call: Callable[[], None], *, seconds: float) -> Timing:
    """Time a call in short windows until the three least medians agree; return the window with the least.

    What runs beside a measurement only ever adds time, so the least of several medians is nearest to the truth.
    """
    windows: list[Timing] = []
    for attempt in range(_WINDOWS):
        windows.append(time_call(call, seconds=seconds, warmup=0 if attempt else _WARMUP))
        windows.sort(key=lambda timing: timing.median_ms)
        if len(windows) >= _LEAST_WINDOWS and windows[2].median_ms <= _AGREE * windows[0].median_ms:
            break
    return windows[0]


def time_interleaved(
    calls: Sequence[Callable[[], object]], *, seconds: float, warmup: int = 3, least: int = 5, clock: Clock = perf_counter
) -> list[Timing]:
    """Time several calls in turns, so that drift of the machine meets all of them; `seconds` is the budget of each."""
    turns = sample_in_turns(calls, seconds=seconds, warmup=warmup, least=least, clock=clock)
    return [timing_from_samples(flat(own)) for own in turns]


def sample_in_turns(
    calls: Sequence[Callable[[], object]], *, seconds: float, warmup: int = 3, least: int = 5, burst_s: float = 0.0,
    clock: Clock = perf_counter,
) -> list[list[list[float]]]:  # fmt: skip
    """Run several calls in turns and return, for each call, the milliseconds of every turn.

    A turn is one run, or as many as take `burst_s` seconds; the order is reversed from turn to turn, so that what a call leaves behind
    (warm caches, spinning threads) meets no other call more often. `seconds` is the budget of each call, `least` its fewest runs.
    """
    for call in calls:
        for _ in range(warmup):
            call()
    turns: list[list[list[float]]] = [[] for _ in calls]
    spent, order = 0.0, list(range(len(calls)))
    while spent < seconds * len(calls) or sum(map(len, turns[0])) < least:
        for index in order:
            own = _burst(calls[index], burst_s * 1e3, clock)
            turns[index].append(own)
            spent += sum(own) / 1e3
        if burst_s:
            order.reverse()
    return turns


def _burst(call: Callable[[], object], least_ms: float, clock: Clock) -> list[float]:
    """Run a call once, or as often as it takes to reach `least_ms`."""
    own = [_once(call, clock)]
    taken = own[0]
    while taken < least_ms:
        own.append(_once(call, clock))
        taken += own[-1]
    return own


def flat(turns: Sequence[Sequence[float]]) -> list[float]:
    """Return the samples of all turns."""
    return [sample for turn in turns for sample in turn]


def _once(call: Callable[[], object], clock: Clock) -> float:
    # A device with a clock of its own says what its work takes, without the host's waiting for it.
    device_ms: Callable[[], float] | None = getattr(call, "device_ms", None)
    if device_ms is not None:
        return device_ms()
    start = clock()
    call()
    return (clock() - start) * 1e3
