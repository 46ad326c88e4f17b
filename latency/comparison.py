"""Whether one detector is faster than another, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

_RESAMPLES = 4000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Comparison:
    """Latency of `second` over that of `first`, and its confidence interval, from `turns` interleaved turns in `sessions` sessions."""

    first: str
    second: str
    ratio: float
    low: float
    high: float
    confidence: float
    turns: int
    sessions: int

    @property
    def verdict(self) -> str:
        """Say in words which is faster."""
        if self.low <= 1.0 <= self.high:
            return "no difference that these runs can tell"
        return f"{self.second} takes {100 * abs(self.ratio - 1):.1f} % {'longer' if self.ratio > 1 else 'less'} than {self.first}"


def compare_sessions(first: str, second: str, sessions: Sequence[Sequence[Sequence[Sequence[float]]]], *, seed: int = 0) -> Comparison:
    """Compare two subjects that ran in turns, opened anew in each session; a session holds, for each of the two, the ms of every turn.

    What one turn gives is a pair of medians that met the same state of the machine, so that their ratio holds in fast and in slow spells;
    the ratio of two medians over all turns would compare a spell of the one with a spell of the other. A session's ratio is the median
    over its turns; the result is the median over sessions, since a session can be slow by itself for as long as it is open: one
    session of two equal engines told them apart by 11 %. The interval draws sessions, and within them runs of
    neighbouring turns (a circular block bootstrap with blocks of about the cube root of the number of turns), since disturbances last
    longer than a turn.
    """
    ratios = [np.array([median(b) / median(a) for a, b in zip(*turns, strict=True)]) for turns in sessions]
    rng, count = np.random.default_rng(seed), len(ratios)
    drawn = np.stack([_resampled_medians(own, rng) for own in ratios])
    which, draw = rng.integers(0, count, (_RESAMPLES, count)), rng.integers(0, _RESAMPLES, (_RESAMPLES, count))
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(np.median(drawn[which, draw], axis=1), (tail, 100 - tail))
    ratio = float(np.median([np.median(own) for own in ratios]))
    return Comparison(first, second, ratio, float(low), float(high), _CONFIDENCE, sum(map(len, ratios)), count)


def _resampled_medians(ratios: Any, rng: np.random.Generator) -> Any:
    """Return the medians `[R]` of block bootstrap samples of ratios `[T]`."""
    count = len(ratios)
    length = max(1, round(count ** (1 / 3)))
    starts = rng.integers(0, count, (_RESAMPLES, -(-count // length)))
    drawn = ((starts[:, :, None] + np.arange(length)) % count).reshape(_RESAMPLES, -1)[:, :count]
    return np.median(ratios[drawn], axis=1)
