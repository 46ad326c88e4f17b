"""The rows of a convolution library beside the formula fitted to them: what the formula misses is taken from the nearest rows."""

import numpy as np
from scipy.spatial import cKDTree

from latency.blocks import Floats

_NEIGHBOURS = 6
_SOFTENING = 0.02
_ADD_COLUMN, _ADD_APART = 2, 8.0


class NearRows:
    """Rows of one family in the space of the variables of `latency.prior.variables_of`.

    A size between measured ones, such as a canvas that is not square, lies between rows and gets a mean of what the formula misses
    there, weighted by distance. `log_missing` is the logarithm of measured over formula.
    """

    def __init__(self, variables: Floats, log_missing: Floats) -> None:
        self._tree = cKDTree(_apart(variables))
        self._log_missing = log_missing

    def factors(self, variables: Floats) -> Floats:
        """Return what the formula is to be multiplied with at each place."""
        count = min(_NEIGHBOURS, len(self._log_missing))
        distances, rows = self._tree.query(_apart(variables), k=list(range(1, count + 1)))
        pull = 1.0 / (distances + _SOFTENING) ** 2
        return np.asarray(np.exp((pull * self._log_missing[rows]).sum(1) / pull.sum(1)))


def _apart(variables: Floats) -> Floats:
    # Rows with a fused addition and rows without are never neighbours.
    apart = variables.copy()
    apart[:, _ADD_COLUMN] *= _ADD_APART
    return apart
