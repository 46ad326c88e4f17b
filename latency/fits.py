"""Fits with weights that cannot be negative."""

import numpy as np
from scipy.optimize import nnls

from latency.blocks import Floats


def nonnegative_fit(features: Floats, measured: Floats) -> Floats:
    """Return the non-negative weights with the least squared relative error of `features @ weights`."""
    scaled = features / measured[:, None]
    norms = np.maximum(np.linalg.norm(scaled, axis=0), 1e-300)
    weights, _ = nnls(scaled / norms, np.ones(len(measured)))
    return np.asarray(weights / norms)
