"""Latency of blocks from measured blocks of their family."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from latency.blocks import REST, Floats, features_of, rounded
from latency.fits import nonnegative_fit

_STEPS = (1, 4, 8, 16, 32)
_NEIGHBOURS = 4
_SOFTENING = 1e-3
_SAME_SHAPE = 2  # sizes from this one on (height, width, calls) are the same for blocks that bound one another
Sizes = tuple[int, ...]


class FamilyModel:
    """A cost formula fitted to all rows, pulled to the nearest rows, and bounded by smaller and larger ones.

    The formula is a sum of non-negative terms (see `blocks.layer_features`), with widths rounded up to the number of channels that
    the runtime computes at a time (the one of 1 to 32 that fits best), so that widths on one plateau are one width. Its error at the
    nearest rows is taken out, and no block is cheaper than a measured one that it contains, nor dearer than one that contains it.
    """

    def __init__(self, family: str, rows: Sequence[tuple[Sizes, float]]) -> None:
        rows = sorted(rows)
        self._family, self._features = family, features_of(family)
        self._all_sizes = [sizes for sizes, _ in rows]
        self._sizes = np.array(self._all_sizes, float)
        self._ms = np.array([ms for _, ms in rows])
        self._step, self._weights, fitted = min(
            (self._fit(step) for step in _STEPS), key=lambda fit: (round(float(np.abs(np.log(self._ms / fit[2])).mean()), 4), fit[0])
        )
        self._log_ratio = np.log(self._ms / fitted)
        self._tree = cKDTree(self._places(self._sizes))

    @property
    def width_step(self) -> int:
        """The number of channels that the runtime seems to compute at a time."""
        return self._step

    def predict(self, wanted: Sequence[Sizes]) -> Floats:
        """Return the milliseconds of blocks by their sizes."""
        sizes = np.array(wanted, float)
        formula = self._features(self._family, sizes, self._step) @ self._weights
        distances, nearest = self._nearest(sizes)
        pull = 1.0 / (distances + _SOFTENING) ** 2
        estimates = formula * np.exp((pull * self._log_ratio[nearest]).sum(1) / pull.sum(1))
        low, high = self._bounds(sizes)
        return np.asarray(np.where(low <= high, np.clip(estimates, low, np.maximum(low, high)), estimates))

    def covers(self, sizes: Sizes) -> bool:
        """Whether every size lies within the range of the rows."""
        return bool(np.all(self._sizes.min(0) <= sizes) and np.all(sizes <= self._sizes.max(0)))

    def neighbours(self, sizes: Sizes) -> list[Sizes]:
        """Return the sizes of the rows that an answer is pulled to, nearest first."""
        return [self._all_sizes[index] for index in self._nearest(np.array([sizes], float))[1][0]]

    def _fit(self, step: int) -> tuple[int, Floats, Floats]:
        features = self._features(self._family, self._sizes, step)
        weights = nonnegative_fit(features, self._ms)
        return step, weights, features @ weights

    def _places(self, sizes: Floats) -> Floats:
        effective = sizes.copy()
        if self._family != REST:
            effective[:, :2] = rounded(sizes[:, :2], self._step)
        return np.asarray(np.log2(effective))

    def _nearest(self, sizes: Floats) -> tuple[Floats, Floats]:
        count = min(_NEIGHBOURS, len(self._ms))
        distances, nearest = self._tree.query(self._places(sizes), k=list(range(1, count + 1)), p=1)
        return distances, nearest

    def _bounds(self, sizes: Floats) -> tuple[Floats, Floats]:
        known, wanted = self._sizes[None], sizes[:, None]
        inside, around = known <= wanted, known >= wanted
        if self._family != REST:
            same = (known[..., _SAME_SHAPE:] == wanted[..., _SAME_SHAPE:]).all(2)
            inside, around = inside[..., :_SAME_SHAPE], around[..., :_SAME_SHAPE]
        else:
            same = np.ones(inside.shape[:2], bool)
        low = np.where(inside.all(2) & same, self._ms, 0.0).max(1)
        return low, np.where(around.all(2) & same, self._ms, np.inf).min(1)
