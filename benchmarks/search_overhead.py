"""What a candidate's time goes to, beside training and evaluation, in the smallest setting that is shipped (preset `quick`, shapes).

    python benchmarks/search_overhead.py --work runs/search_overhead --trials 6

Base and pool are trained for a moment only, since how good they are does not change how long candidates take. Every candidate's time runs
from the end of the one before it to its own end, so that everything is in it: the proposal, the database, weights, teachers, files.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provenance import ROOT, provenance
from rich.console import Console

import jdnas.pipeline.detector_training as detector_training
import jdnas.pipeline.search as pipeline_search
import jdnas.search.climb as climb
from jdnas.config import parse_overrides, resolve
from jdnas.pipeline.optimize import run_until
from jdnas.pipeline.workshop import StudentWorkshop
from jdnas.search.history import History, Trial
from jdnas.search.study import SearchStudy
from jdnas.teacher.pool import TeacherPool
from jdnas.training.checkpoint import write_json

# What is timed, by where it is called; teachers are made in the first steps of a training that use them.
PLACES: dict[str, list[tuple[Any, str]]] = {
    "training": [(detector_training, "fit")],
    "evaluation": [(detector_training, "evaluate")],
    "teacher": [(TeacherPool, "extract")],
    "evolving": [(StudentWorkshop, "evolve")],
    "proposing": [(climb, "propose")],
    "database": [(SearchStudy, "begin"), (SearchStudy, "finish")],
}
SHORT = ("base_train.epochs=0.1", "pool.phases=[{epochs: 0.05, depth_share: 0.0, widths: [1.25]}, "
         "{epochs: 0.05, depth_share: 1.0, widths: [1.0, 1.25], subnets: 1}]")  # fmt: skip


class Books:
    """Seconds by place, for the candidate at hand and for those before it."""

    def __init__(self) -> None:
        self.now: dict[str, float] = defaultdict(float)
        self.rows: list[dict[str, float]] = []
        self.since = time.perf_counter()

    def watch(self, label: str, owner: Any, name: str) -> None:
        """Add the time of every call to a label."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*arguments, **options)
            finally:
                self.now[label] += time.perf_counter() - started

        setattr(owner, name, timed)

    def close(self, trial: Trial) -> None:
        """Close a candidate's books; what remains is split into its places and the rest."""
        wall, self.since = time.perf_counter() - self.since, time.perf_counter()
        row = {label: self.now[label] for label in PLACES} | {"wall": wall}
        row["training"] -= row["teacher"]
        row["rest"] = wall - sum(row[label] for label in PLACES)
        if trial.number and trial.state == "complete":
            self.rows.append(row)
        self.now.clear()


def measure(work: Path, trials: int, preset: str, more: list[str]) -> list[dict[str, float]]:
    """Search, and return each trained candidate's seconds by place."""
    overrides = [*SHORT, f"search.trials={trials}", f"search.patience={trials}", "search.refuse=false", *more]
    config = resolve(preset, parse_overrides([*overrides, "data=shapes", "device=cpu"]))
    books, search = Books(), pipeline_search.run

    def watched(*arguments: Any, on_finish: Callable[[Trial, History], None], **options: Any) -> Any:
        def finished(trial: Trial, history: History) -> None:
            on_finish(trial, history)
            books.close(trial)

        for label, places in PLACES.items():  # not before: base and pool are trained through the same functions
            for owner, name in places:
                books.watch(label, owner, name)
        books.since = time.perf_counter()
        return search(*arguments, on_finish=finished, **options)

    pipeline_search.run = watched  # type: ignore[assignment]
    run_until("search", config, work, resume=True, console=Console())
    return books.rows


def summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Return what candidates took, and the share of it that is neither training nor evaluation."""
    wall = sum(row["wall"] for row in rows)
    means = {label: round(statistics.mean(row[label] for row in rows), 4) for label in [*PLACES, "rest", "wall"]}
    overhead = [1 - (row["training"] + row["evaluation"]) / row["wall"] for row in rows]
    return {
        "candidates": len(rows), "mean_seconds": means, "overhead": round(1 - sum(r["training"] + r["evaluation"] for r in rows) / wall, 4),
        "overhead_without_teachers": round(1 - sum(r["training"] + r["evaluation"] + r["teacher"] for r in rows) / wall, 4),
        "overhead_per_candidate": [round(share, 4) for share in overhead], "wanted": 0.05,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty run folder")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "search_overhead.json")
    given = parser.parse_args()
    rows = measure(given.work, given.trials, given.preset, given.overrides)
    result = {"provenance": provenance(), "setting": f"preset {given.preset}, shapes, CPU", **summary(rows)}
    write_json(given.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
