"""Latency of a block from measured blocks of its family."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from latency.blocks import Floats, features_of, rounded
from latency.fits import nonnegative_fit

_STEPS = (1, 8, 16)
_NEIGHBOURS = 4
_SOFTENING = 1e-3


class FamilyModel:
    """A cost formula fitted to all rows, pulled to the nearest rows, and bounded by smaller and larger ones.

    The formula is a sum of non-negative terms (see `blocks.layer_features`), with widths rounded up to the number of channels that
    the runtime computes at a time (the one of 1, 8, 16 that fits best). Its error at the nearest rows is taken out, and no block is
    cheaper than a measured one that it contains, nor dearer than one that contains it.
    """

    def __init__(self, family: str, rows: Sequence[tuple[tuple[int, ...], float]]) -> None:
        rows = sorted(rows)
        self._family, self._features = family, features_of(family)
        self._all_sizes = [sizes for sizes, _ in rows]
        self._sizes = np.array(self._all_sizes, float)
        self._ms = np.array([ms for _, ms in rows])
        self._step, self._weights, fitted = min(
            (self._fit(step) for step in _STEPS), key=lambda fit: (float(np.abs(np.log(self._ms / fit[2])).mean()), fit[0])
        )
        self._log_ratio = np.log(self._ms / fitted)
        self._places = np.log2(self._effective(self._sizes))

    @property
    def width_step(self) -> int:
        """The number of channels that the runtime seems to compute at a time."""
        return self._step

    def predict(self, sizes: tuple[int, ...]) -> float:
        """Return milliseconds."""
        formula = float(np.dot(self._features(self._family, sizes, self._step), self._weights))
        nearest, distance = self._nearest(sizes)
        pull = 1.0 / (distance + _SOFTENING) ** 2
        estimate = formula * float(np.exp(np.dot(pull, self._log_ratio[nearest]) / pull.sum()))
        low, high = self._bounds(sizes)
        return min(max(estimate, low), high) if low <= high else estimate

    def covers(self, sizes: tuple[int, ...]) -> bool:
        """Whether every size lies within the range of the rows."""
        return bool(np.all(self._sizes.min(0) <= sizes) and np.all(sizes <= self._sizes.max(0)))

    def neighbours(self, sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the sizes of the rows that an answer is pulled to, nearest first."""
        return [self._all_sizes[index] for index in self._nearest(sizes)[0]]

    def _fit(self, step: int) -> tuple[int, Floats, Floats]:
        features = np.array([self._features(self._family, sizes, step) for sizes in self._all_sizes])
        weights = nonnegative_fit(features, self._ms)
        return step, weights, features @ weights

    def _effective(self, sizes: Floats) -> Floats:
        if self._family == "rest":
            return sizes
        effective = sizes.copy()
        effective[..., :2] = np.vectorize(lambda width: rounded(int(width), self._step))(sizes[..., :2])
        return effective

    def _nearest(self, sizes: tuple[int, ...]) -> tuple[Any, Floats]:
        place = np.log2(self._effective(np.array(sizes, float)))
        distance = np.abs(self._places - place).sum(1)
        nearest = np.argsort(distance, kind="stable")[:_NEIGHBOURS]
        return nearest, distance[nearest]

    def _bounds(self, sizes: tuple[int, ...]) -> tuple[float, float]:
        inside, around = (self._sizes <= sizes).all(1), (self._sizes >= sizes).all(1)
        low = float(self._ms[inside].max()) if inside.any() else 0.0
        return low, float(self._ms[around].min()) if around.any() else float("inf")
