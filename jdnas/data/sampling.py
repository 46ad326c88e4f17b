"""In which order an epoch shows its images, and which of them more than once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jdnas.data.records import Record


def repeat_factors(records: Sequence[Record], threshold: float) -> NDArray[np.float64] | None:
    """Return how often each image is to be seen, or None for once each (repeat-factor sampling; Gupta et al. 2019, LVIS, section 5).

    A class on a share f of the images has the factor max(1, sqrt(threshold / f)), an image that of its rarest class.
    """
    if threshold <= 0:
        return None
    present = [np.unique(record.labels[~record.crowd]) for record in records]
    labels, counts = np.unique(np.concatenate(present), return_counts=True)
    factor_of = dict(zip(labels.tolist(), np.maximum(1.0, np.sqrt(threshold * len(records) / counts)).tolist(), strict=True))
    return np.array([max((factor_of[label] for label in found.tolist()), default=1.0) for found in present])


def epoch_order(indices: NDArray[np.int64], factors: NDArray[np.float64] | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the images of an epoch in random order; as many as there are, whatever the factors, so that schedules keep their length.

    Systematic sampling: each image comes as often as its factor's share of the epoch, rounded up or down at random.
    """
    if factors is None:
        return rng.permutation(indices)
    ends = np.cumsum(factors / factors.sum() * len(indices))
    points = np.arange(len(indices)) + rng.random()
    return rng.permutation(indices[np.searchsorted(ends, points).clip(max=len(indices) - 1)])
