"""Plain rows for the report, drawn from a history."""

from collections.abc import Callable
from typing import Any

from jdnas.search.history import History, Trial
from jdnas.search.points import Point
from jdnas.spec import DetectorSpec

Row = dict[str, Any]
Capacity = Callable[[DetectorSpec], float]


def counts(history: History, k: int) -> Row:
    """Count the candidates by what became of them; `accepted` ones were in the top-k list when they finished, `improved` ones led it."""
    rows = trace(history, k)
    total: Row = {state: sum(row["state"] == state for row in rows) for state in ("complete", "refused", "stopped", "failed")}
    return {
        "proposed": len(rows), "evaluated": total.pop("complete"), **total,
        "accepted": sum(row["accepted"] for row in rows), "improved": sum(row["improved"] for row in rows),
        "images": sum(row["images"] for row in rows), "images_saved": images_saved(history), "seconds": history.seconds,
    }  # fmt: skip


def images_saved(history: History) -> Row:
    """Return how many training images were not spent: on candidates refused for their cost, and on the rest of those that were stopped.

    A candidate that is trained to its end, which all would be in the paper's algorithm, shows how many images that takes.
    """
    full = max((trial.images for trial in history.complete), default=0)
    left: Row = {"refused": 0, "stopped": 0}
    for trial in history:
        if trial.state == "stopped" or (trial.state == "refused" and trial.costs):  # without costs, the action changed nothing
            left[trial.state] += max(0, full - trial.images)
    return left


def trace(history: History, k: int) -> list[Row]:
    """Return one row per candidate beyond the base, in order: its change, its score and gain on its parent, and what became of it."""
    replayed, rows = History(), []
    for trial in sorted(history, key=lambda trial: trial.number):
        improved = replayed.add(trial)
        if trial.parent is None:
            continue
        rows.append(
            {
                "number": trial.number, "parent": trial.parent, "generation": trial.generation, "change": trial.candidate.change,
                "state": trial.state, "size": trial.size, "ap": trial.ap, "cost": trial.cost, "score": trial.score,
                "gain": gain(history, trial), "accepted": any(trial is member for member in replayed.top_k(k)), "improved": improved,
                "best_score": replayed.best().score, "images": trial.images, "seconds": trial.seconds, "reason": trial.reason,
            }
        )  # fmt: skip
    return rows


def gain(history: History, trial: Trial) -> float | None:
    """Return a complete trial's score less its parent's; None for others and for the base."""
    if trial.score is None or trial.parent is None:
        return None
    before = history[trial.parent].score
    return None if before is None else trial.score - before


def gains_by_change(history: History) -> list[Row]:
    """Return, per generation and kind of change, how many were evaluated, how many raised the score and by how much (paper, Fig. 6).

    `gain` is the sum over those that raised it, `mean_gain` is over all; `share` is of the generation's beneficial changes.
    """
    gains: dict[tuple[int, str], list[float]] = {}
    for trial in history.complete:
        if (value := gain(history, trial)) is not None:
            gains.setdefault((trial.generation, trial.candidate.change), []).append(value)
    beneficial = {key: sum(value > 0 for value in values) for key, values in gains.items()}
    rows = []
    for (generation, change), values in sorted(gains.items()):
        of_generation = sum(number for (other, _), number in beneficial.items() if other == generation)
        rows.append(
            {
                "generation": generation, "change": change, "evaluated": len(values), "beneficial": beneficial[generation, change],
                "gain": sum(value for value in values if value > 0), "mean_gain": sum(values) / len(values),
                "share": beneficial[generation, change] / of_generation if of_generation else 0.0,
            }
        )  # fmt: skip
    return rows


def capacities(history: History, student: Capacity, teacher: Capacity) -> list[Row]:
    """Return the capacity of student and teacher of every evaluated pair, in order, and of the best pair so far (Joint-DetNAS, Fig. 5)."""
    replayed, rows = History(), []
    for trial in sorted(history.complete, key=lambda trial: trial.number):
        replayed.add(trial)
        best = replayed.best()
        rows.append(
            {
                "number": trial.number, "score": trial.score, "student": student(trial.student), "teacher": teacher(trial.teacher),
                "best_number": best.number, "best_student": student(best.student), "best_teacher": teacher(best.teacher),
            }
        )  # fmt: skip
    return rows


def operating_points(history: History) -> list[Point]:
    """Return every evaluated student at every resolution."""
    return [Point(trial.number, size, cost, trial.ap_at(size)) for trial in history.complete for size, cost in trial.costs.items()]
