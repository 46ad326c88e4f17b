import random
from dataclasses import replace

import pytest

from jdnas.search.history import History, Trial
from tests.search.simulated import resnet, trial


def numbers(trials: list[Trial]) -> list[int]:
    return [trial.number for trial in trials]


def test_top_k_ranks_by_score_then_age() -> None:
    history = History([trial(0, 0.3), trial(1, 0.5, parent=0), trial(2, 0.3, parent=0), trial(3, 0.1, parent=1)])
    assert numbers(history.top_k(3)) == [1, 0, 2]
    assert numbers(history.top_k(99)) == [1, 0, 2, 3]
    assert history.best().number == 1
    assert (history.score_at(1), history.score_at(4), history.score_at(5)) == (0.5, 0.1, None)


def test_equal_pairs_take_one_place_held_by_the_better() -> None:
    spec = resnet(40)
    history = History([trial(0, 0.3), trial(1, 0.5, parent=0, kind="a", student=spec), trial(2, 0.6, parent=1, kind="b", student=spec)])
    assert numbers(history.top_k(5)) == [2, 0]
    history.add(trial(3, 0.55, parent=1, kind="c", student=spec))
    assert numbers(history.top_k(5)) == [2, 0]
    history.add(trial(4, 0.4, parent=1, student=spec))  # another teacher is another pair
    assert numbers(history.top_k(5)) == [2, 4, 0]


def test_ranking_equals_sorting() -> None:
    rng = random.Random(0)
    trials = [trial(0, 0.5)]
    for number in range(1, 200):
        trials.append(trial(number, rng.choice([0.1, 0.2, 0.3, rng.random()]), parent=0, kind="x", student=resnet(rng.randint(8, 60))))
    best: dict[object, Trial] = {}
    for item in trials:
        if item.pair not in best or (item.score or 0) > (best[item.pair].score or 0):
            best[item.pair] = item
    expected = sorted(best.values(), key=lambda item: (-(item.score or 0), item.number))
    assert numbers(History(trials).top_k(500)) == numbers(expected)


def test_refused_and_failed_ones_do_not_rank() -> None:
    refused = replace(trial(1, 0.9, parent=0), state="refused", score=None, metrics={})
    failed = replace(trial(2, 0.9, parent=0), state="failed", score=None, metrics={})
    history = History([trial(0, 0.3), refused, failed])
    assert numbers(history.top_k(5)) == [0] and numbers(history.complete) == [0]
    assert history.best_aps == {"128x128": 0.3}
    assert history.stale == 1  # the refused one


def test_generation_counts_gains_and_stale_the_rest() -> None:
    history = History()
    seen = [
        (history.add(trial(n, s, parent=n - 1 if n else None)), history.generation, history.stale) for n, s in enumerate([3, 2, 4, 4, 5])
    ]
    assert seen == [(True, 0, 0), (False, 0, 1), (True, 1, 0), (False, 1, 1), (True, 2, 0)]


def test_remembers_what_was_proposed() -> None:
    given = trial(1, 0.2, parent=0, kind="add_layer")
    history = History([trial(0, 0.3), given])
    assert history.was_proposed(0, {"of": 1, "kind": "add_layer"}, given.teacher)
    assert not history.was_proposed(1, given.candidate.action, given.teacher)
    assert not history.was_proposed(0, given.candidate.action, resnet(8))
    assert not history.was_proposed(0, {"of": 2, "kind": "add_layer"}, given.teacher)


def test_lineage_and_its_images() -> None:
    history = History([trial(0, 0.3), trial(1, 0.2, parent=0), trial(2, 0.2, parent=0), trial(3, 0.4, parent=1)])
    assert numbers(history.lineage(3)) == [0, 1, 3]
    assert history.lineage_images(3) == 0 + 10 + 30
    assert history.seconds == 8.0


def test_empty_and_doubled() -> None:
    with pytest.raises(LookupError, match="no candidate"):
        History().best()
    history = History([trial(0, 0.3)])
    with pytest.raises(ValueError, match="candidate 0"):
        history.add(trial(0, 0.4))
    assert len(history) == 1 and 0 in history and 1 not in history
