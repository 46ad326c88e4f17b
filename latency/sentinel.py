"""Telling slow spells of a machine from slow engines."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latency.plan import Case
from latency.prepared import PreparedEngine
from latency.targets import Target

SLOW = 1.3  # of the sentinel's quick readings: they scatter by a fifth, and slow spells were met at twice (docs/latency.md)
QUICK = 0.1  # quantile of all of the sentinel's readings that its quick ones are told by; their least falls with their number
_SENTINEL_SECONDS = 0.15


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement of an engine, and what the sentinel took beside it (the slower of before and after), both in milliseconds."""

    ms: float
    sentinel_ms: float


Readings = dict[Case, tuple[Reading, ...]]


class Sentinel:
    """A small engine that is timed before and after every measurement, and so tells in what state of the machine that was taken.

    A virtual machine can be slow for minutes, which a measurement cannot see of itself.
    """

    def __init__(self, case: Case, target: Target, engines_dir: Path) -> None:
        self._case, self._target, self._folder = case, target, engines_dir

    def reading_of(self, case: Case) -> Reading:
        """Measure a case in a session of its own, with the sentinel on both sides."""
        before = self._look()
        ms = round(PreparedEngine(case, self._target, self._folder).measure().median_ms, 5)
        return Reading(ms, max(before, self._look()))

    def _look(self) -> float:
        return round(PreparedEngine(self._case, self._target, self._folder).glance(_SENTINEL_SECONDS).median_ms, 5)


def undisturbed(readings: Readings) -> dict[Case, tuple[float, ...]]:
    """Return the milliseconds that were measured while the sentinel took at most `SLOW` times its quick readings."""
    looks = [one.sentinel_ms for own in readings.values() for one in own]
    limit = SLOW * float(np.quantile(looks, QUICK, method="lower")) if looks else 0.0
    return {case: tuple(one.ms for one in own if one.sentinel_ms <= limit) for case, own in readings.items()}
