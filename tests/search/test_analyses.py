from dataclasses import replace

import pytest

from jdnas.search.analyses import capacities, counts, gains_by_change, operating_points, trace
from jdnas.search.history import History, Trial
from jdnas.search.points import Point
from tests.search.simulated import resnet, size_of, trial


def at(given: Trial, generation: int) -> Trial:
    return replace(given, candidate=replace(given.candidate, generation=generation))


@pytest.fixture
def history() -> History:
    return History(
        [
            trial(0, 0.30),
            trial(1, 0.34, parent=0, kind="prune_channels"),
            trial(2, 0.28, parent=0, kind="prune_channels"),
            at(trial(3, 0.35, parent=1, kind="add_layer"), 1),
            at(trial(4, 0.36, parent=1), 2),
            replace(at(trial(5, 0.0, parent=1, kind="prune_layer"), 3), state="failed", score=None, ap=None, metrics={}, costs={}),
            replace(at(trial(6, 0.0, parent=1, kind="prune_layer"), 3), state="refused", score=None, ap=None, metrics={}, reason="dear"),
        ]
    )


def test_trace(history: History) -> None:
    rows = trace(history, k=2)
    assert [row["number"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["accepted"] for row in rows] == [True, False, True, True, False, False]
    assert [row["improved"] for row in rows] == [True, False, True, True, False, False]
    assert [row["best_score"] for row in rows] == [0.34, 0.34, 0.35, 0.36, 0.36, 0.36]
    assert [row["gain"] for row in rows[:4]] == pytest.approx([0.04, -0.02, 0.01, 0.02])
    assert rows[4]["gain"] is None and rows[5]["reason"] == "dear"


def test_counts(history: History) -> None:
    assert counts(history, k=2) == {
        "proposed": 6, "evaluated": 4, "refused": 1, "stopped": 0, "failed": 1, "accepted": 3, "improved": 3,
        "images": 210, "images_saved": {"refused": 0, "stopped": 0}, "seconds": 14.0,
    }  # fmt: skip


def test_gains_by_change(history: History) -> None:
    rows = gains_by_change(history)
    assert [(row["generation"], row["change"], row["evaluated"], row["beneficial"], row["share"]) for row in rows] == [
        (0, "prune_channels", 2, 1, 1.0),
        (1, "add_layer", 1, 1, 1.0),
        (2, "teacher", 1, 1, 1.0),
    ]
    assert [row["gain"] for row in rows] == pytest.approx([0.04, 0.01, 0.02])
    assert rows[0]["mean_gain"] == pytest.approx(0.01)


def test_shares_are_within_a_generation() -> None:
    given = [trial(0, 0.3)] + [trial(n, 0.3 + 0.01 * n, parent=0, kind=kind) for n, kind in enumerate(["a", "a", "b", "a"], start=1)]
    assert {row["change"]: row["share"] for row in gains_by_change(History(given))} == {"a": 0.75, "b": 0.25}
    assert gains_by_change(History([trial(0, 0.3), trial(1, 0.2, parent=0, kind="a")]))[0]["share"] == 0.0


def test_capacities_follow_the_best_pair(history: History) -> None:
    rows = capacities(history, size_of, lambda spec: float(spec.stem))
    assert [row["number"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["best_number"] for row in rows] == [0, 1, 1, 3, 4]
    assert rows[2]["student"] == size_of(resnet(34)) and rows[2]["best_student"] == size_of(resnet(33))
    assert {row["teacher"] for row in rows} == {48.0}


def test_every_resolution_is_an_operating_point() -> None:
    made = replace(trial(0, 0.3), costs={"128x128": 2.0, "96x96": 1.0}, metrics={"128x128": {"ap": 0.3}, "96x96": {"ap": 0.2}})
    refused = replace(trial(1, 0.9, parent=0, kind="a"), state="refused", score=None, metrics={})
    assert operating_points(History([made, refused])) == [Point(0, "128x128", 2.0, 0.3), Point(0, "96x96", 1.0, 0.2)]
