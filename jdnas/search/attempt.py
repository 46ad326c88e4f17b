"""Work on one candidate: evolve, price, train and score it, wherever an executor lets that happen."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jdnas.errors import ConfigError, JdnasError, TrainingError
from jdnas.search.halving import Rung
from jdnas.search.history import Trial, TrialState
from jdnas.search.objective import Bar, Objective, costs_of
from jdnas.search.workshop import Candidate, Cost, SearchTask, Workshop, json_data
from jdnas.spec import DetectorSpec

Clock = Callable[[], float]

# What one candidate may do wrong without ending the search. torch.OutOfMemoryError is a RuntimeError. A full disk (OSError) or a
# programming error ends it, and leaves the candidate to be done again.
CANDIDATE_ERRORS = (JdnasError, MemoryError, RuntimeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class Bench:
    """What candidates are worked on with; each process that works on some has its own."""

    workshop: Workshop
    cost: Cost


@dataclass(frozen=True, slots=True)
class Judge:
    """What a candidate is judged by, as plain data; `bar` is None where nothing is refused, `rung` where nothing is stopped early."""

    task: SearchTask
    objective: Objective
    bar: Bar | None = None
    rung: Rung | None = None


def attempt(
    candidate: Candidate, bench: Bench, judge: Judge, *, clock: Clock = time.perf_counter, started: float | None = None
) -> Trial:  # fmt: skip
    """Evolve, price, train and score one candidate; its own faults make it failed, those of the base are raised.

    `started` is when work on the candidate began, if that was before this call.
    """
    work = _Work(candidate, clock() if started is None else started)
    try:
        return _attempt(work, bench, judge, clock)
    except CANDIDATE_ERRORS as error:
        if candidate.choice == "base":
            raise
        lines = str(error).splitlines() or [""]
        return work.trial("failed", clock(), reason=f"{type(error).__name__}: {lines[0]}")


class _Work:
    """How far a candidate has come."""

    def __init__(self, candidate: Candidate, started: float) -> None:
        self.candidate = candidate
        self.started = started
        self.student: DetectorSpec = candidate.origin
        self.costs: dict[str, float] = {}
        self.evaluating_since: float | None = None

    def trial(self, state: TrialState, now: float, **result: Any) -> Trial:
        """Close the books."""
        seconds = 0.0 if self.evaluating_since is None else now - self.evaluating_since
        overhead = now - self.started - seconds
        return Trial(
            self.candidate, state, self.student, costs=self.costs, seconds=seconds, overhead_seconds=overhead, **result
        )  # fmt: skip


def _attempt(work: _Work, bench: Bench, judge: Judge, clock: Clock) -> Trial:
    candidate = work.candidate
    if candidate.choice == "student":
        work.student = bench.workshop.evolve(candidate)
        if work.student == candidate.origin:
            return work.trial("refused", clock(), reason=f"the action {candidate.change} changes nothing")
    work.costs = costs_of(work.student, judge.task.sizes_hw, bench.cost)
    refusal = judge.bar.refusal(judge.objective, work.costs) if judge.bar is not None else None
    if refusal is not None:
        return work.trial("refused", clock(), reason=refusal)
    work.evaluating_since = clock()
    rung = judge.rung.of(judge.objective, work.costs) if judge.rung is not None and candidate.choice != "base" else None
    outcome = bench.workshop.evaluate(candidate, work.student, rung)
    early = None if rung is None or outcome.early_aps is None else rung.score(outcome.early_aps)
    if outcome.stopped is not None:
        return work.trial("stopped", clock(), images=outcome.images, reason=outcome.stopped, rung=early)
    metrics = json_data({key: dict(values) for key, values in outcome.metrics.items()})
    aps = _aps(metrics, work.costs)
    size, score = judge.objective.best(aps, work.costs)
    return work.trial(
        "complete", clock(), metrics=metrics, size=size, ap=aps[size], cost=work.costs[size], score=score,
        images=outcome.images, files=dict(outcome.files), reason=outcome.note, rung=early,
    )  # fmt: skip


def _aps(metrics: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, float]) -> dict[str, float]:
    if missing := sizes.keys() - metrics.keys():
        raise ConfigError(f"the evaluation left out the resolutions {', '.join(sorted(missing))}")
    aps = {key: float(metrics[key]["ap"]) for key in sizes}
    if not all(map(math.isfinite, aps.values())):
        raise TrainingError(f"the AP is not finite: {aps}")
    return aps
