import math

import numpy as np
import pytest

from latency.blocks import REST, Block
from latency.correction import GROUPS, Correction, fit_correction, group_of, group_sums


def test_groups():
    families = ["conv 3x3/2", "conv 1x1/1", "depthwise 3x3/1", "linear", REST]
    assert [group_of(family) for family in families] == list(range(len(GROUPS)))


def test_sums_by_hand():
    blocks = [
        (Block("conv 3x3/1", (8, 8, 4, 4, 1)), 2, 0.5),
        (Block("conv 7x7/2", (3, 8, 4, 4, 1)), 1, 0.25),
        (Block(REST, (1,) * 7), 1, 3.0),
    ]
    assert group_sums(blocks).tolist() == [1.25, 0, 0, 0, 3.0, 4, 1]
    assert Correction((2.0, 1, 1, 1, 0.5), 0.1, 0.2).apply(group_sums(blocks)) == pytest.approx(2.5 + 1.5 + 0.4 + 0.2)


def engines(rng, count, factors, per_block, constant, noise=0.0):
    sums = np.concatenate((rng.uniform(0.5, 8, (count, len(GROUPS))), rng.integers(40, 120, (count, 1)), np.ones((count, 1))), 1)
    measured = sums @ np.array([*factors, per_block, constant])
    return sums, measured * rng.normal(1, noise, count)


def test_differing_kinds_are_corrected_differently():
    rng = np.random.default_rng(0)
    factors = (1.1, 0.8, 1.6, 0.9, 1.3)
    learnt = fit_correction(*engines(rng, 20, factors, 0.01, 0.3, noise=0.005))
    unseen, truth = engines(rng, 200, factors, 0.01, 0.3)
    errors = np.array([learnt.apply(row) for row in unseen]) / truth - 1
    common = fit_correction(*(part[:3] for part in engines(np.random.default_rng(0), 20, factors, 0.01, 0.3)))
    assert np.abs(errors).mean() < 0.01
    assert np.abs(np.array([common.apply(row) for row in unseen]) / truth - 1).mean() > 0.05
    # The error estimate comes from engines that were left out: it is of the size of the true one.
    assert learnt.error == pytest.approx(np.abs(errors).mean(), abs=0.01)
    assert learnt.p90 >= learnt.error and learnt.engines == 20


def test_noise_does_not_make_wild_factors():
    rng = np.random.default_rng(1)
    learnt = fit_correction(*engines(rng, 8, (1.2,) * 5, 0, 0, noise=0.05))
    assert all(0.6 < factor < 1.8 for factor in learnt.factors)


def test_few_engines_teach_one_factor_and_no_error():
    sums, measured = engines(np.random.default_rng(2), 2, (1.5,) * 5, 0, 0)
    learnt = fit_correction(sums, measured)
    assert learnt.factors == pytest.approx((1.5,) * 5)
    assert math.isnan(learnt.error)
    nothing = fit_correction(np.empty((0, 7)), np.empty(0))
    assert (nothing.factors, nothing.engines) == ((1.0,) * 5, 0)
