"""What whole engines teach about a sum of blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from latency.blocks import REST, Block, Floats, kernel_and_stride

GROUPS = ("wide kernels", "1x1", "depthwise", "linear", REST)
_ENOUGH_ENGINES = 4
_STIFFNESS = (0.003, 0.03, 0.3, 3.0, 30.0)
_UNKNOWN = float("nan")


@dataclass(frozen=True, slots=True)
class Correction:
    """Factors of the groups of blocks, milliseconds per block that runs and per engine, and the error of engines left out of the fit.

    `error` is the mean relative error and `p90` its 90th percentile; NaN where there were too few engines to tell.
    """

    factors: tuple[float, ...] = (1.0,) * len(GROUPS)
    per_block_ms: float = 0.0
    constant_ms: float = 0.0
    error: float = _UNKNOWN
    p90: float = _UNKNOWN
    engines: int = 0

    def apply(self, sums: Floats) -> float:
        """Return the latency of an engine by its `group_sums`."""
        return float(np.dot(sums, (*self.factors, self.per_block_ms, self.constant_ms)))


def group_of(family: str) -> int:
    """Return the group of a family: blocks that a runtime treats alike are wrong alike."""
    if family == REST:
        return 4
    if family == "linear":
        return 3
    if family.startswith("depthwise"):
        return 2
    return 1 if kernel_and_stride(family)[0] == 1 else 0


def group_sums(blocks: Sequence[tuple[Block, int, float]]) -> Floats:
    """Return milliseconds by group, how many blocks run, and 1; `blocks` are block, how often it runs, milliseconds of one run."""
    sums = np.zeros(len(GROUPS) + 2)
    for block, count, latency_ms in blocks:
        sums[group_of(block.family)] += count * latency_ms
        sums[-2] += count
    sums[-1] = 1.0
    return sums


def fit_correction(sums: Floats, measured: Floats) -> Correction:
    """Learn from engines: `sums` `[N, groups + 2]`, `measured` `[N]` ms.

    All weights are non-negative; factors are pulled to one common factor, and what is added to it to none, as strongly as predicts best
    the engines that are left out one at a time. A few engines only teach the common factor.
    """
    if not len(measured):
        return Correction()
    if len(measured) < _ENOUGH_ENGINES:
        return _correction(_common(sums, measured), np.array([_UNKNOWN]), len(measured))
    errors = {stiffness: _left_out_errors(sums, measured, stiffness) for stiffness in _STIFFNESS}
    best = min(_STIFFNESS, key=lambda stiffness: float(errors[stiffness].mean()))
    return _correction(_weights(sums, measured, best), errors[best], len(measured))


def _left_out_errors(sums: Floats, measured: Floats, stiffness: float) -> Floats:
    errors = []
    for index in range(len(measured)):
        others = np.arange(len(measured)) != index
        predicted = sums[index] @ _weights(sums[others], measured[others], stiffness)
        errors.append(abs(predicted / measured[index] - 1))
    return np.array(errors)


def _common(sums: Floats, measured: Floats) -> Floats:
    ratio = float(np.exp(np.mean(np.log(measured / sums[:, : len(GROUPS)].sum(1)))))
    return np.array([ratio] * len(GROUPS) + [0.0, 0.0])


def _weights(sums: Floats, measured: Floats, stiffness: float) -> Floats:
    scaled, wanted = sums / measured[:, None], _common(sums, measured)
    shares = np.maximum(scaled.mean(0), 1e-9) * np.sqrt(stiffness * len(measured))
    features = np.concatenate((scaled, np.diag(shares)))
    return np.asarray(nnls(features, np.concatenate((np.ones(len(measured)), shares * wanted)))[0])


def _correction(weights: Floats, errors: Floats, engines: int) -> Correction:
    factors = tuple(float(weight) for weight in weights[: len(GROUPS)])
    return Correction(factors, float(weights[-2]), float(weights[-1]), float(errors.mean()), float(np.percentile(errors, 90)), engines)
