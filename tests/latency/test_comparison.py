import numpy as np
import pytest

from latency.comparison import compare_turns


def turns(rng, ratio, count, *, drift=0.0):
    """Pairs of turns of a machine whose speed wanders; both of a pair meet the same speed."""
    speed = np.exp(np.cumsum(rng.normal(0, drift, count)) + rng.normal(0, 0.002, count))
    return [[[float(10 * one * rng.normal(1, 0.01)) for _ in range(3)] for one in speed * factor] for factor in (1.0, ratio)]


def test_a_known_ratio_lies_in_the_interval():
    rng = np.random.default_rng(0)
    hits = [
        compare.low <= 1.05 <= compare.high and not compare.low <= 1.0 <= compare.high
        for compare in (compare_turns("a", "b", turns(rng, 1.05, 60, drift=0.02)) for _ in range(40))
    ]
    assert np.mean(hits) >= 0.85


def test_equal_subjects_are_seldom_told_apart():
    rng = np.random.default_rng(1)
    found = [compare_turns("a", "b", turns(rng, 1.0, 60, drift=0.02)) for _ in range(40)]
    assert np.mean([one.low <= 1 <= one.high for one in found]) >= 0.85
    assert found[0].verdict == "no difference that these runs can tell" or found[0].low > 1 or found[0].high < 1


def test_slow_spells_of_the_machine_do_not_move_the_ratio():
    rng, off = np.random.default_rng(3), []
    for _ in range(40):
        spells = np.repeat(rng.choice((1.0, 2.0), 12), 5)  # for five turns in a row everything takes twice as long, or not
        samples = [[[float(10 * one * rng.normal(1, 0.01))] for one in spells * factor] for factor in (1.0, 0.9)]
        found = compare_turns("a", "b", samples)
        assert found.high - found.low < 0.02
        off.append(abs(found.ratio - 0.9))
    assert max(off) < 0.01


def test_exact_samples():
    one = compare_turns("fast", "slow", [[[2.0]] * 5, [[3.0, 3.0]] * 5])
    assert (one.ratio, one.low, one.high, one.turns) == (1.5, 1.5, 1.5, 5)
    assert one.verdict == "slow takes 50.0 % longer than fast"
    assert compare_turns("a", "b", [[[4.0]] * 3, [[3.0]] * 3]).verdict == "b takes 25.0 % less than a"


def test_same_samples_same_answer():
    samples = turns(np.random.default_rng(2), 1.02, 20)
    assert compare_turns("a", "b", samples) == compare_turns("a", "b", samples)
    assert compare_turns("a", "b", samples, seed=1).ratio == pytest.approx(compare_turns("a", "b", samples).ratio)
