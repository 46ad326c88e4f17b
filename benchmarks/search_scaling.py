"""How the search scales: candidates per second through Ray, what the driver itself costs, and 10,000 candidates.

    python benchmarks/search_scaling.py --seconds 1.0 --candidates 10000

Evaluations are simulated: they sleep, so that any number of workers fit on any machine, and only what the search does counts. Through Ray
the same search is timed with 1 and 4 workers in turns. The long search runs in this process, on an SQLite study in a file, as
runs have it, and on one in memory, which shows the search without its database; its times are those of the processor.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import InMemoryStorage
from provenance import ROOT, provenance

sys.path.insert(0, str(ROOT))
from jdnas.search.attempt import Bench  # noqa: E402
from jdnas.search.climb import run  # noqa: E402
from jdnas.search.executors.on_ray import RayExecutor, Share, connect  # noqa: E402
from jdnas.search.settings import SearchSettings  # noqa: E402
from jdnas.search.study import SearchStudy, sqlite_url  # noqa: E402
from jdnas.search.workshop import ActionData, Candidate  # noqa: E402
from jdnas.spec import DetectorSpec  # noqa: E402
from jdnas.training.checkpoint import read_json, write_json  # noqa: E402
from tests.search.simulated import TASK, Simulator, cost  # noqa: E402

PARTS = ["ray", "in_memory", "in_a_file"]


class Endless(Simulator):
    """Never runs out of actions: its ratios are any numbers."""

    def sample_action(self, spec: DetectorSpec, rng: random.Random, generation: int) -> ActionData | None:  # noqa: D102
        action = super().sample_action(spec, rng, generation)
        return None if action is None else {**action, "ratio": rng.uniform(0.0, 0.3)}


@dataclass(frozen=True)
class SleepingSite:
    """Workers that sleep for the time of a training."""

    seconds: float

    def open(self) -> Bench:  # noqa: D102
        return Bench(Endless(seconds=self.seconds), cost)


@contextmanager
def new_study(trials: int, *, in_memory: bool = False) -> Iterator[SearchStudy]:
    """Begin a study in memory, or in a file below TMPDIR, which says whether its commits wait for a disk."""
    settings = SearchSettings(trials=trials, patience=10**9, refuse=False, stop_early=False, seed=1)
    if in_memory:
        yield SearchStudy.attach(InMemoryStorage(), TASK, settings, shown="memory")
        return
    with tempfile.TemporaryDirectory() as folder, SearchStudy.open(sqlite_url(Path(folder) / "study.db"), TASK, settings) as study:
        yield study


class Waiting:
    """`ray`, with the time that is spent waiting for candidates counted."""

    def __init__(self, ray: Any) -> None:
        self._ray, self.seconds = ray, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ray, name)

    def wait(self, *arguments: Any, **options: Any) -> Any:  # noqa: D102
        started = time.perf_counter()
        try:
            return self._ray.wait(*arguments, **options)
        finally:
            self.seconds += time.perf_counter() - started


def through_ray(ray: Any, workers: int, trials: int, seconds: float) -> dict[str, float]:
    """Search with so many workers, and return seconds per candidate beyond the base: in all, and of the driver alone."""
    waiting, moments = Waiting(ray), list[float]()
    with new_study(trials) as study, RayExecutor(waiting, SleepingSite(seconds), Share(cpus=1.0), workers=workers) as executor:

        def note(*_: object) -> None:
            if not moments:  # the base is done, and has opened a worker
                waiting.seconds = 0.0
            moments.append(time.perf_counter())

        cpu = time.process_time()
        run(study, Endless(), cost, executor=executor, on_finish=note)
        cpu = time.process_time() - cpu
    spent = moments[-1] - moments[0]
    return {
        "seconds": spent / trials, "driver_wall_ms": 1000 * (spent - waiting.seconds) / trials, "driver_cpu_ms": 1000 * cpu / (trials + 1),
    }  # fmt: skip


def scaling(seconds: float, each: int, rounds: int) -> dict[str, Any]:
    """Time 1 and 4 workers in turns on a local cluster of 4 nominal cores."""
    os.environ["PYTHONPATH"] = str(ROOT)
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=80 * 2**20)
    connect(None)
    through_ray(ray, 4, 8, 1.0)  # starts the worker processes
    found: dict[int, list[dict[str, float]]] = {1: [], 4: []}
    for _ in range(rounds):
        for workers, rows in found.items():
            rows.append(through_ray(ray, workers, each * workers, seconds))
            print(workers, rows[-1], flush=True)
    ray.shutdown()
    ratios = [one["seconds"] / four["seconds"] for one, four in zip(found[1], found[4], strict=True)]
    driver = {
        key: round(statistics.median(row[key] for rows in found.values() for row in rows), 2) for key in ("driver_wall_ms", "driver_cpu_ms")
    }
    return {
        "sleep_seconds": seconds, "candidates": {"1": each, "4": 4 * each}, "rounds": rounds,
        "throughput_ratio": round(statistics.median(ratios), 3), "ratios": [round(ratio, 3) for ratio in ratios],
        "seconds_per_candidate": {str(workers): [round(row["seconds"], 4) for row in rows] for workers, rows in found.items()},
        "wanted_ratio": 3.6, "study_below": tempfile.gettempdir(), **driver, "wanted_driver_ms": 50,
    }  # fmt: skip


def long_search(candidates: int, *, in_memory: bool) -> dict[str, Any]:
    """Search in this process; return milliseconds per candidate (simulated evaluation, proposal, study) by tenths of the way."""
    moments, proposing = [time.process_time()], list[float]()

    with new_study(candidates, in_memory=in_memory) as study:
        begin = study.begin

        def noted(candidate: Candidate) -> None:  # a proposal ends where it is stored
            proposing.append(time.process_time() - moments[-1])
            begin(candidate)

        study.begin = noted  # type: ignore[method-assign]
        run(study, Endless(), cost, on_finish=lambda *_: moments.append(time.process_time()))
        assert len(study.history) == candidates + 1
    whole = [after - before for before, after in zip(moments, moments[1:], strict=False)]
    tenth = candidates // 10
    medians = {
        name: [round(1000 * statistics.median(values[1 + i * tenth : 1 + (i + 1) * tenth]), 4) for i in range(10)]
        for name, values in (("proposal_ms", proposing), ("candidate_ms", whole))
    }
    growth = {f"{name}_growth": round(values[-1] / values[0], 3) for name, values in medians.items()}
    return {"candidates": candidates, "study": "memory" if in_memory else "SQLite", **medians, **growth, "wanted_growth": 2.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="what a simulated training sleeps")
    parser.add_argument("--each", type=int, default=12, help="candidates per worker and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "search_scaling.json")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS)
    given = parser.parse_args()
    result = read_json(given.out) if given.out.exists() else {}
    parts = {
        "ray": lambda: scaling(given.seconds, given.each, given.rounds),
        "in_memory": lambda: long_search(given.candidates, in_memory=True),
        "in_a_file": lambda: long_search(given.candidates, in_memory=False),
    }
    for part in given.part:
        result[part] = parts[part]() | {"provenance": provenance()}
        write_json(given.out, result)
        print(json.dumps(result[part], indent=1), flush=True)


if __name__ == "__main__":
    main()
