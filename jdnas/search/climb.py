"""Hill climbing over student-teacher pairs (Joint-DetNAS, Algorithm 1)."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jdnas.errors import ConfigError, JdnasError, TrainingError
from jdnas.search.history import History, Trial
from jdnas.search.objective import Bar, Objective, bar_of, costs_of, objective_for
from jdnas.search.propose import first_candidate, propose
from jdnas.search.settings import SearchSettings
from jdnas.search.workshop import Candidate, Cost, SearchTask, Workshop, json_data
from jdnas.spec import DetectorSpec

if TYPE_CHECKING:  # optuna is slow to import
    from jdnas.search.study import SearchStudy

StoppedBy = Literal["trials", "patience", "time", "exhausted", "request", "interrupt"]
Clock = Callable[[], float]

# What one candidate may do wrong without ending the search. torch.OutOfMemoryError is a RuntimeError. A full disk (OSError) or a
# programming error ends it, and leaves the candidate to be done again.
CANDIDATE_ERRORS = (JdnasError, MemoryError, RuntimeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What was found, and why the search stopped there."""

    history: History
    stopped_by: StoppedBy


@dataclass(frozen=True, slots=True)
class Judge:
    """All that is needed to work on one candidate besides the workshop; `bar` is None where nothing is refused."""

    task: SearchTask
    objective: Objective
    cost: Cost
    bar: Bar | None = None


def run(
    study: "SearchStudy", workshop: Workshop, cost: Cost, *,
    on_start: Callable[[Candidate, History], None] | None = None,
    on_finish: Callable[[Trial, History], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    clock: Clock = time.perf_counter,
) -> SearchResult:  # fmt: skip
    """Search until a budget of the study's settings is spent, and return all that was found.

    Candidates that an earlier run left unfinished come first. Ctrl-C returns in order and leaves its candidate to be done again.
    A failed base raises what it failed with; `max_failures` failed candidates in a row raise a TrainingError.
    """
    history, settings = study.history, study.settings
    objective = objective_for(study.task, cost, settings)
    failures = 0
    try:
        while True:
            started = clock()
            if should_stop is not None and should_stop():
                return SearchResult(history, "request")
            stopped_by = None if study.running else _spent(history, settings)
            if stopped_by is not None:
                return SearchResult(history, stopped_by)
            candidate = _next_candidate(study, workshop)
            if candidate is None:
                return SearchResult(history, "exhausted")
            if on_start is not None:
                on_start(candidate, history)
            judge = Judge(study.task, objective, cost, bar_of(history, settings))
            trial = attempt(candidate, workshop, judge, clock=clock, started=started)
            study.finish(trial)
            if on_finish is not None:
                on_finish(trial, history)
            failures = failures + 1 if trial.state == "failed" else 0
            if failures >= settings.max_failures:
                raise TrainingError(
                    f"{failures} candidates in a row failed, candidate {trial.number} with: {trial.reason}; mend it and resume the run"
                )
    except KeyboardInterrupt:
        return SearchResult(history, "interrupt")


def _spent(history: History, settings: SearchSettings) -> StoppedBy | None:
    if len(history) > settings.trials:
        return "trials"
    if history.stale >= settings.patience:
        return "patience"
    if settings.max_seconds is not None and history.seconds >= settings.max_seconds:
        return "time"
    return None


def _next_candidate(study: "SearchStudy", workshop: Workshop) -> Candidate | None:
    if study.running:
        return study.running[0]
    number = len(study.history)
    candidate = propose(study.history, number, study.settings, workshop) if number else first_candidate(study.task, study.settings)
    if candidate is not None:
        study.begin(candidate)
    return candidate


def attempt(
    candidate: Candidate, workshop: Workshop, judge: Judge, *, clock: Clock = time.perf_counter, started: float | None = None
) -> Trial:
    """Evolve, price, train and score one candidate; its own faults make it failed, those of the base are raised.

    `started` is when work on the candidate began, if that was before this call.
    """
    work = _Work(candidate, clock() if started is None else started)
    try:
        return _attempt(work, workshop, judge, clock)
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

    def trial(self, state: Literal["complete", "refused", "failed"], now: float, **result: Any) -> Trial:
        """Close the books."""
        seconds = 0.0 if self.evaluating_since is None else now - self.evaluating_since
        overhead = now - self.started - seconds
        return Trial(
            self.candidate, state, self.student, costs=self.costs, seconds=seconds, overhead_seconds=overhead, **result
        )  # fmt: skip


def _attempt(work: _Work, workshop: Workshop, judge: Judge, clock: Clock) -> Trial:
    candidate = work.candidate
    if candidate.choice == "student":
        work.student = workshop.evolve(candidate)
        if work.student == candidate.origin:
            return work.trial("refused", clock(), reason=f"the action {candidate.change} changes nothing")
    work.costs = costs_of(work.student, judge.task.sizes_hw, judge.cost)
    refusal = judge.bar.refusal(judge.objective, work.costs) if judge.bar is not None else None
    if refusal is not None:
        return work.trial("refused", clock(), reason=refusal)
    work.evaluating_since = clock()
    outcome = workshop.evaluate(candidate, work.student)
    metrics = json_data({key: dict(values) for key, values in outcome.metrics.items()})
    aps = _aps(metrics, work.costs)
    size, score = judge.objective.best(aps, work.costs)
    return work.trial(
        "complete", clock(), metrics=metrics, size=size, ap=aps[size], cost=work.costs[size], score=score,
        images=outcome.images, files=dict(outcome.files),
    )  # fmt: skip


def _aps(metrics: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, float]) -> dict[str, float]:
    if missing := sizes.keys() - metrics.keys():
        raise ConfigError(f"the evaluation left out the resolutions {', '.join(sorted(missing))}")
    aps = {key: float(metrics[key]["ap"]) for key in sizes}
    if not all(map(math.isfinite, aps.values())):
        raise TrainingError(f"the AP is not finite: {aps}")
    return aps
