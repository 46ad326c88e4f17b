"""Whether one detector is faster than another, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

_RESAMPLES = 4000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Comparison:
    """Latency of `second` over that of `first`: the median of the ratios of `turns` interleaved turns, and its confidence interval."""

    first: str
    second: str
    ratio: float
    low: float
    high: float
    confidence: float
    turns: int

    @property
    def verdict(self) -> str:
        """Say in words which is faster."""
        if self.low <= 1.0 <= self.high:
            return "no difference that these runs can tell"
        return f"{self.second} takes {100 * abs(self.ratio - 1):.1f} % {'longer' if self.ratio > 1 else 'less'} than {self.first}"


def compare_turns(first: str, second: str, turns: Sequence[Sequence[Sequence[float]]], *, seed: int = 0) -> Comparison:
    """Compare two subjects that ran in turns; `turns` holds, for each of the two, the milliseconds of every turn.

    What one turn gives is a pair of medians that met the same state of the machine, so that their ratio holds in fast and in slow spells;
    the ratio of two medians over all turns would compare a spell of the one with a spell of the other. Disturbances last longer than a
    turn, so runs of neighbouring pairs are drawn together (a circular block bootstrap with blocks of about the cube root of the number of
    turns).
    """
    ratios = np.array([median(b) / median(a) for a, b in zip(*turns, strict=True)])
    count = len(ratios)
    length = max(1, round(count ** (1 / 3)))
    starts = np.random.default_rng(seed).integers(0, count, (_RESAMPLES, -(-count // length)))
    drawn = ((starts[:, :, None] + np.arange(length)) % count).reshape(_RESAMPLES, -1)[:, :count]
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(np.median(ratios[drawn], axis=1), (tail, 100 - tail))
    return Comparison(first, second, float(np.median(ratios)), float(low), float(high), _CONFIDENCE, count)
