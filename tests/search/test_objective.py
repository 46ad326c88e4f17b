import math
from dataclasses import replace

import pytest

from jdnas.errors import ConfigError
from jdnas.search.history import History, Trial
from jdnas.search.objective import Bar, Objective, bar_of, costs_of, goal_of, objective_for
from jdnas.search.settings import SearchSettings
from tests.search.simulated import LARGE, SMALL, TASK, cost, trial


def test_trade_off_by_hand() -> None:
    h = Objective(base_cost=10.0, base_size_hw=(800, 800), alpha=0.15)
    assert h.score(0.4, 10.0, (800, 800)) == pytest.approx(0.4)
    assert h.score(0.4, 5.0, (800, 800)) == pytest.approx(0.4 * 1.1095695)  # 2 ** 0.15
    assert h.score(0.4, 20.0, (800, 800)) == pytest.approx(0.4 / 1.1095695)


def test_beta_charges_the_square_root_of_the_area() -> None:
    h = Objective(base_cost=10.0, base_size_hw=(800, 800), alpha=0.15, beta=2.0)
    assert h.score(0.4, 10.0, (400, 400)) == pytest.approx(0.4 * 1.2311444)  # (1/2) ** 2 to the -0.15 = 2 ** 0.3
    assert h.score(0.4, 10.0, (400, 800)) == pytest.approx(0.4 * 1.1095695)
    assert h.score(0.4, 10.0, (1600, 400)) == pytest.approx(0.4)


def test_alpha_zero_is_ap() -> None:
    assert Objective(10.0, (8, 8), alpha=0.0, beta=3.0).score(0.37, 1.0, (4, 4)) == 0.37


def test_max_cost_is_ap_within_and_ranks_violations_below() -> None:
    h = Objective(10.0, (8, 8), max_cost=5.0)
    scores = [h.score(ap, c, (8, 8)) for ap, c in [(0.4, 5.0), (0.3, 1.0), (0.0, 5.0), (0.9, 6.0), (0.99, 10.0)]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 0.4 and scores[2] == 0.0
    assert scores[3:] == pytest.approx([-0.2, -1.0])


def test_min_ap_is_speed_above_and_ranks_violations_below() -> None:
    h = Objective(10.0, (8, 8), min_ap=0.3)
    assert h.score(0.3, 5.0, (8, 8)) == 2.0
    assert h.score(0.8, 10.0, (8, 8)) == 1.0
    assert h.score(0.25, 0.1, (8, 8)) == pytest.approx(-0.05)


def test_best_resolution_is_chosen() -> None:
    h = Objective(10.0, (8, 8), alpha=0.15)
    assert h.best({"8x8": 0.40, "4x4": 0.38}, {"8x8": 10.0, "4x4": 5.0}) == ("4x4", pytest.approx(0.38 * 1.1095695))
    assert h.best({"8x8": 0.40, "4x4": 0.30}, {"8x8": 10.0, "4x4": 5.0}) == ("8x8", pytest.approx(0.40))


def test_base_cost_is_the_bases_at_its_resolution() -> None:
    h = objective_for(TASK, cost, SearchSettings(alpha=0.07, beta=1.0))
    assert (h.base_cost, h.base_size_hw, h.alpha, h.beta, h.mode) == (cost(TASK.base, LARGE), LARGE, 0.07, 1.0, "trade_off")
    assert objective_for(TASK, cost, SearchSettings(max_cost=3.0)).mode == "max_cost"
    assert objective_for(TASK, cost, SearchSettings(min_ap=0.3)).mode == "min_ap"


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_costs_must_be_positive(wrong: float) -> None:
    with pytest.raises(ConfigError, match=r"at 128x128 is .*; it must be positive"):
        costs_of(TASK.base, (SMALL, LARGE), lambda spec, size: wrong if size == LARGE else 1.0)


def test_two_budgets_at_once_are_an_error() -> None:
    with pytest.raises(ValueError, match="not both"):
        SearchSettings(max_cost=1.0, min_ap=0.5)


def test_bar_refuses_only_what_cannot_enter() -> None:
    h = Objective(10.0, (8, 8), alpha=0.15)
    bar = Bar(score=0.44, optimistic_aps={"8x8": 0.40, "4x4": 0.35})
    assert bar.refusal(h, {"8x8": 5.0, "4x4": 2.5}) is None  # 0.4438
    assert bar.refusal(h, {"8x8": 10.0, "4x4": 2.0}) is None  # 0.35 * 5 ** 0.15 = 0.4456: one resolution is enough
    assert bar.refusal(h, {"8x8": 5.5, "4x4": 2.75}) == (
        "even AP 0.400 at cost 5.5 (8x8) would score only 0.4375, and the list starts at 0.4400"
    )


def test_bar_is_the_last_of_a_full_list() -> None:
    settings = SearchSettings(k=2, optimistic_gain=0.05)
    history = History([trial(0, 0.3)])
    assert bar_of(history, settings) is None
    history.add(trial(1, 0.5, parent=0))
    history.add(trial(2, 0.4, parent=0))
    assert bar_of(history, settings) == Bar(0.4, {"128x128": 0.55})
    assert bar_of(history, settings.model_copy(update={"refuse": False})) is None
    history.add(trial(3, 0.99, parent=0))
    assert bar_of(history, settings) == Bar(0.5, {"128x128": 1.0})


def test_a_goal_names_what_came_closest() -> None:
    tight, history = Objective(10.0, LARGE, max_cost=0.5), History()
    for given in (trial(0, 0.3), trial(1, 0.2, parent=0)):
        score = tight.score(given.ap_at("128x128"), 1.0 - 0.1 * given.number, LARGE)
        history.add(_priced(given, 1.0 - 0.1 * given.number, score))
    missed = goal_of(history.best(), SearchSettings(max_cost=0.5))
    assert missed is not None and not missed.met
    assert (
        missed.sentence("ms") == "nothing meets the cost limit 0.5 ms: the fastest found was candidate 1 at 128x128: cost 0.9 ms, AP 0.200"
    )
    strict = Objective(10.0, LARGE, min_ap=0.9)
    missed = goal_of(_priced(trial(0, 0.3), 1.0, strict.score(0.3, 1.0, LARGE)), SearchSettings(min_ap=0.9))
    assert missed is not None and not missed.met
    assert missed.sentence() == "nothing reaches AP 0.9: the best found was candidate 0 at 128x128: cost 1, AP 0.300"


def test_a_goal_that_is_met() -> None:
    easy = Objective(10.0, LARGE, min_ap=0.2)
    met = goal_of(_priced(trial(4, 0.3), 2.0, easy.score(0.3, 2.0, LARGE)), SearchSettings(min_ap=0.2))
    assert met is not None and met.met
    assert met.sentence() == "the cheapest with AP 0.2 or more is candidate 4 at 128x128: cost 2, AP 0.300"
    assert goal_of(trial(0, 0.3), SearchSettings()) is None


def _priced(given: Trial, price: float, score: float) -> Trial:
    return replace(given, costs={"128x128": price}, cost=price, score=score)
