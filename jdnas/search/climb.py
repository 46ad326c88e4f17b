"""Hill climbing over student-teacher pairs (Joint-DetNAS, Algorithm 1): propose, submit, collect, record."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from jdnas.errors import TrainingError
from jdnas.search.attempt import Bench, Clock, Judge
from jdnas.search.executors.base import Executor, Job
from jdnas.search.executors.in_process import InProcess
from jdnas.search.halving import rung_of
from jdnas.search.history import History, Trial
from jdnas.search.objective import Objective, bar_of, objective_for
from jdnas.search.propose import first_candidate, propose
from jdnas.search.settings import SearchSettings
from jdnas.search.workshop import Candidate, Cost, Workshop

if TYPE_CHECKING:  # optuna is slow to import
    from jdnas.search.study import SearchStudy

StoppedBy = Literal["trials", "patience", "time", "exhausted", "request", "interrupt"]
OnStart = Callable[[Candidate, History], None]
OnFinish = Callable[[Trial, History], None]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What was found, and why the search stopped there."""

    history: History
    stopped_by: StoppedBy


def run(
    study: "SearchStudy", workshop: Workshop, cost: Cost, *,
    executor: Executor | None = None,
    on_start: OnStart | None = None,
    on_finish: OnFinish | None = None,
    should_stop: Callable[[], bool] | None = None,
    clock: Clock = time.perf_counter,
) -> SearchResult:  # fmt: skip
    """Search until a budget of the study's settings is spent, and return all that was found.

    `workshop` and `cost` draw and price what is proposed here; without an `executor` they also make it real, one candidate at a time.
    An executor with more room has several in flight: the list moves on with each that finishes, and when a budget is spent the rest is
    waited for. Candidates that an earlier run left unfinished come first. Ctrl-C returns in order and leaves those in flight to be done
    again. A failed base raises what it failed with; `max_failures` failed candidates in a row raise a TrainingError.
    """
    executor = executor or InProcess(Bench(workshop, cost), clock=clock)
    history, settings = study.history, study.settings
    climb = _Climb(study, workshop, executor, objective_for(study.task, cost, settings), on_start, should_stop, clock)
    failures = 0
    try:
        while True:
            stopped_by = climb.fill()
            if stopped_by is not None and not climb.in_flight:
                return SearchResult(history, stopped_by)
            trial = executor.collect()
            climb.record(trial)
            if on_finish is not None:
                on_finish(trial, history)
            failures = failures + 1 if trial.state == "failed" else 0
            if failures >= settings.max_failures:
                raise TrainingError(
                    f"{failures} candidates in a row failed, candidate {trial.number} with: {trial.reason}; mend it and resume the run"
                )
    except KeyboardInterrupt:
        return SearchResult(history, "interrupt")


@dataclass
class _Climb:
    """What is in flight, and what comes next."""

    study: "SearchStudy"
    workshop: Workshop
    executor: Executor
    objective: Objective
    on_start: OnStart | None
    should_stop: Callable[[], bool] | None
    clock: Clock
    in_flight: set[int] = field(default_factory=set)

    def fill(self) -> StoppedBy | None:
        """Submit candidates while the executor has room; say why there are no more, or None."""
        study = self.study
        while self.executor.room > 0:
            started = self.clock()
            if self.should_stop is not None and self.should_stop():
                return "request"
            candidate = next((c for c in study.running if c.number not in self.in_flight), None)
            if candidate is None:
                if self.in_flight and not len(study.history):
                    return None  # everything descends from the base
                if (stopped_by := _spent(study.history, len(study.running), study.settings)) is not None:
                    return stopped_by
                if (candidate := self._propose()) is None:
                    return "exhausted"
            self._submit(candidate, started)
        return None

    def record(self, trial: Trial) -> None:
        """Store what came back."""
        self.study.finish(trial)
        self.in_flight.discard(trial.number)

    def _propose(self) -> Candidate | None:
        study = self.study
        number = len(study.history) + len(study.running)
        candidate = propose(study.history, number, study.settings, self.workshop) if number else first_candidate(study.task, study.settings)
        if candidate is not None:
            study.begin(candidate)
        return candidate

    def _submit(self, candidate: Candidate, started: float) -> None:
        if self.on_start is not None:
            self.on_start(candidate, self.study.history)
        history, settings = self.study.history, self.study.settings
        judge = Judge(self.study.task, self.objective, bar_of(history, settings), rung_of(history, settings))
        self.in_flight.add(candidate.number)
        self.executor.submit(Job(candidate, judge, started))


def _spent(history: History, in_flight: int, settings: SearchSettings) -> StoppedBy | None:
    if len(history) + in_flight > settings.trials:
        return "trials"
    if history.stale >= settings.patience:
        return "patience"
    if settings.max_seconds is not None and history.seconds >= settings.max_seconds:
        return "time"
    return None
