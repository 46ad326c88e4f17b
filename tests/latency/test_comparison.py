import numpy as np
import pytest

from latency.comparison import compare_sessions


def turns(rng, ratio, count, *, drift=0.0):
    """Pairs of turns of a machine whose speed wanders; both of a pair meet the same speed."""
    speed = np.exp(np.cumsum(rng.normal(0, drift, count)) + rng.normal(0, 0.002, count))
    return [[[float(10 * one * rng.normal(1, 0.01)) for _ in range(3)] for one in speed * factor] for factor in (1.0, ratio)]


def test_a_known_ratio_lies_in_the_interval():
    rng = np.random.default_rng(0)
    hits = [
        compare.low <= 1.05 <= compare.high and not compare.low <= 1.0 <= compare.high
        for compare in (compare_sessions("a", "b", [turns(rng, 1.05, 60, drift=0.02)]) for _ in range(40))
    ]
    assert np.mean(hits) >= 0.85


def test_equal_subjects_are_seldom_told_apart():
    rng = np.random.default_rng(1)
    found = [compare_sessions("a", "b", [turns(rng, 1.0, 60, drift=0.02)]) for _ in range(40)]
    assert np.mean([one.low <= 1 <= one.high for one in found]) >= 0.85
    assert found[0].verdict == "no difference that these runs can tell" or found[0].low > 1 or found[0].high < 1


def test_slow_spells_of_the_machine_do_not_move_the_ratio():
    rng, off = np.random.default_rng(3), []
    for _ in range(40):
        spells = np.repeat(rng.choice((1.0, 2.0), 12), 5)  # for five turns in a row everything takes twice as long, or not
        samples = [[[float(10 * one * rng.normal(1, 0.01))] for one in spells * factor] for factor in (1.0, 0.9)]
        found = compare_sessions("a", "b", [samples])
        assert found.high - found.low < 0.02
        off.append(abs(found.ratio - 0.9))
    assert max(off) < 0.01


def test_exact_samples():
    one = compare_sessions("fast", "slow", [[[[2.0]] * 5, [[3.0, 3.0]] * 5]])
    assert (one.ratio, one.low, one.high, one.turns, one.sessions) == (1.5, 1.5, 1.5, 5, 1)
    assert one.verdict == "slow takes 50.0 % longer than fast"
    assert compare_sessions("a", "b", [[[[4.0]] * 3, [[3.0]] * 3]]).verdict == "b takes 25.0 % less than a"


def test_same_samples_same_answer():
    samples = [turns(np.random.default_rng(2), 1.02, 20)]
    assert compare_sessions("a", "b", samples) == compare_sessions("a", "b", samples)
    assert compare_sessions("a", "b", samples, seed=1).ratio == pytest.approx(compare_sessions("a", "b", samples).ratio)


def test_sessions_that_are_slow_by_themselves_tell_no_equal_subjects_apart():
    """An opened engine may be slow for as long as it is open; turns within one session cannot see that."""
    rng = np.random.default_rng(4)
    apart = {1: 0, 8: 0}
    for _ in range(40):
        slow = rng.choice((1.0, 1.8), (8, 2), p=(0.7, 0.3))
        sessions = [[[[float(10 * factor * rng.normal(1, 0.01))] for _ in range(20)] for factor in pair] for pair in slow]
        for count in apart:
            found = compare_sessions("a", "b", sessions[:count])
            apart[count] += not found.low <= 1 <= found.high
    assert apart[8] <= 4 < apart[1]
