"""Whether one detector is faster than another, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

_RESAMPLES = 4000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Comparison:
    """Latency of `second` over that of `first`: the ratio of medians and its confidence interval, from `turns` interleaved turns."""

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

    What one turn gives is a pair of medians that met the same state of the machine. Disturbances last longer than a turn, so runs of
    neighbouring pairs are drawn together (a circular block bootstrap with blocks of about the cube root of the number of turns).
    """
    pairs = np.array([(median(a), median(b)) for a, b in zip(*turns, strict=True)])
    count = len(pairs)
    length = max(1, round(count ** (1 / 3)))
    starts = np.random.default_rng(seed).integers(0, count, (_RESAMPLES, -(-count // length)))
    drawn = ((starts[:, :, None] + np.arange(length)) % count).reshape(_RESAMPLES, -1)[:, :count]
    ratios = np.median(pairs[drawn, 1], axis=1) / np.median(pairs[drawn, 0], axis=1)
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(ratios, (tail, 100 - tail))
    medians = np.median(pairs, axis=0)
    return Comparison(first, second, float(medians[1] / medians[0]), float(low), float(high), _CONFIDENCE, count)
