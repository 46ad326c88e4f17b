"""Timing of calls: warm-up, samples until a time budget is spent, percentiles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds per call: median, 5th and 95th percentile, and the number of samples."""

    median_ms: float
    p5_ms: float
    p95_ms: float
    repeats: int

    @property
    def fps(self) -> float:
        """Calls per second at the median."""
        return 1000.0 / self.median_ms

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


def time_interleaved(
    calls: Sequence[Callable[[], object]], *, seconds: float, warmup: int = 3, least: int = 5, clock: Clock = perf_counter
) -> list[Timing]:
    """Time several calls in turns, so that drift of the machine meets all of them; `seconds` is the budget of each."""
    for call in calls:
        for _ in range(warmup):
            call()
    samples: list[list[float]] = [[] for _ in calls]
    spent = 0.0
    while spent < seconds * len(calls) or len(samples[0]) < least:
        for call, own in zip(calls, samples, strict=True):
            start = clock()
            call()
            own.append((clock() - start) * 1e3)
            spent += own[-1] / 1e3
    return [timing_from_samples(own) for own in samples]
