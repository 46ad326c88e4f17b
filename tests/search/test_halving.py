"""The rung after the first epochs."""

import random
from dataclasses import replace

import pytest
from optuna.storages import InMemoryStorage

from jdnas.search.analyses import counts, images_saved
from jdnas.search.climb import run
from jdnas.search.halving import Rung, rung_of, threshold_of
from jdnas.search.history import History, Trial
from jdnas.search.objective import Objective
from jdnas.search.settings import SearchSettings
from jdnas.search.study import SearchStudy, sqlite_url
from tests.search.simulated import TASK, Simulator, cost, essence, trial

RULES = SearchSettings(trials=60, patience=999, refuse=False, stop_after=4, stop_quantile=0.25, seed=2)


def looked_at(number: int, score: float) -> Trial:
    return replace(trial(number, score, parent=None if number == 0 else 0), rung=score if number else None)


def search(settings: SearchSettings = RULES) -> tuple[History, Simulator]:
    simulator = Simulator()
    return run(SearchStudy.attach(InMemoryStorage(), TASK, settings, shown="memory"), simulator, cost).history, simulator


def test_the_threshold_is_a_quantile_of_all_looks_before() -> None:
    history = History([looked_at(0, 0.9)])
    for number, score in enumerate([0.3, 0.1, 0.4], start=1):
        history.add(looked_at(number, score))
    assert threshold_of(history, RULES) is None  # three of the four that are needed
    history.add(looked_at(4, 0.2))
    assert history.rung_scores == [0.1, 0.2, 0.3, 0.4]
    assert threshold_of(history, RULES) == 0.2  # a quarter of them stayed below
    assert threshold_of(history, RULES.model_copy(update={"stop_quantile": 0.1})) == 0.1
    assert threshold_of(history, RULES.model_copy(update={"stop_quantile": 0.99})) == 0.4
    assert rung_of(history, RULES.model_copy(update={"stop_early": False})) is None


def test_a_verdict_is_about_the_score_of_the_best_resolution() -> None:
    rung = Rung(1.0, 0.44).of(Objective(10.0, (8, 8), alpha=0.15), {"8x8": 10.0, "4x4": 2.0})
    assert rung.verdict({"8x8": 0.30, "4x4": 0.35}) is None  # 0.35 * 5 ** 0.15 = 0.4456
    assert rung.verdict({"8x8": 0.30, "4x4": 0.34}) == "score 0.4328 after 1 epochs, where most candidates before it reached 0.4400"
    assert replace(rung, threshold=None).verdict({"8x8": 0.0, "4x4": 0.0}) is None
    assert rung.verdict({"8x8": 0.44, "4x4": 0.0}) is None  # as good as the threshold is good enough


def test_the_worst_beginners_are_stopped_and_nobody_else() -> None:
    history, simulator = search()
    replayed, stopped = History(), 0
    for item in history:
        if item.choice != "base":
            threshold = threshold_of(replayed, RULES)
            assert item.rung is not None
            assert (item.state == "stopped") == (threshold is not None and item.rung < threshold)
            stopped += item.state == "stopped"
        replayed.add(item)
    assert 5 < stopped < 25
    assert all(
        item.images == 40 and item.score is None and "most candidates" in str(item.reason) for item in history if item.state == "stopped"
    )
    assert len([call for call in simulator.calls if call.startswith("evaluate")]) == 61


def test_the_stopped_ones_are_no_parents() -> None:
    history, _ = search()
    stopped = {item.number for item in history if item.state == "stopped"}
    assert stopped and not stopped & {item.parent for item in history}


def test_what_it_saves_is_counted() -> None:
    history, _ = search(RULES.model_copy(update={"refuse": True, "optimistic_gain": 0.0, "k": 2}))
    full = max(item.images for item in history.complete)
    refused, stopped = ([item for item in history if item.state == state] for state in ("refused", "stopped"))
    assert refused and stopped
    assert images_saved(history) == {"refused": full * len(refused), "stopped": sum(full - 40 for _ in stopped)}
    row = counts(history, 2)
    assert (row["stopped"], row["images_saved"]) == (len(stopped), images_saved(history))
    assert row["images"] == history.images == sum(item.images for item in history)


def test_an_action_without_effect_saves_nothing() -> None:
    inert = replace(trial(1, 0.0, parent=0, kind="a"), state="refused", score=None, metrics={}, costs={}, images=0)
    assert images_saved(History([trial(0, 0.3), replace(trial(2, 0.3, parent=0), images=100), inert])) == {"refused": 0, "stopped": 0}


def test_switched_off_it_asks_for_nothing() -> None:
    history, _ = search(RULES.model_copy(update={"stop_early": False}))
    assert {item.state for item in history} == {"complete"} and all(item.rung is None for item in history)
    assert history.rung_scores == []


def test_it_stops_the_same_ones_when_the_search_is_resumed(tmp_path) -> None:
    undisturbed, url, rng = search()[0], sqlite_url(tmp_path / "study.db"), random.Random(0)
    while True:
        with SearchStudy.open(url, TASK, RULES) as study:
            until = len(study.history) + rng.randint(1, 20)
            result = run(study, Simulator(), cost, should_stop=lambda study=study, until=until: len(study.history) >= until)
        if result.stopped_by == "trials":
            break
    with SearchStudy.load(url) as study:
        assert essence(study.history) == essence(undisturbed)


def test_optuna_sees_the_looks(tmp_path) -> None:
    optuna = pytest.importorskip("optuna")
    url = sqlite_url(tmp_path / "study.db")
    with SearchStudy.open(url, TASK, RULES) as study:
        run(study, Simulator(), cost)
        history = study.history
    seen = optuna.load_study(study_name="jdnas", storage=url)
    stopped = [item for item in history if item.state == "stopped"]
    assert {seen.trials[item.number].state for item in stopped} == {optuna.trial.TrialState.PRUNED}
    assert all(seen.trials[item.number].intermediate_values == {1: item.rung} for item in stopped)
