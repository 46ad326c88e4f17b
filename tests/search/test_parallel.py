"""Several candidates in flight: what is proposed follows from what was known, and nothing is lost or done twice."""

import random

import pytest
from optuna.storages import InMemoryStorage

from jdnas.errors import TrainingError
from jdnas.search.attempt import Bench, attempt
from jdnas.search.climb import run
from jdnas.search.executors.base import Job
from jdnas.search.history import History, Trial, proposal_key
from jdnas.search.propose import propose
from jdnas.search.settings import SearchSettings
from jdnas.search.study import SearchStudy, sqlite_url
from tests.search.simulated import TASK, Simulator, cost, essence

SETTINGS = SearchSettings(trials=40, patience=1000, seed=7, refuse=False)


class Shuffled:
    """Has several candidates in flight and finishes them in any order; `most` is how many it had at once."""

    def __init__(self, workers: int, simulator: Simulator, seed: int = 0, dies_after: int | None = None) -> None:
        self.workers, self.bench, self.rng = workers, Bench(simulator, cost), random.Random(seed)
        self.jobs: list[Job] = []
        self.most, self.left = 0, dies_after

    @property
    def room(self) -> int:
        return self.workers - len(self.jobs)

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self.most = max(self.most, len(self.jobs))

    def collect(self) -> Trial:
        if self.left is not None:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
        job = self.jobs.pop(self.rng.randrange(len(self.jobs)))
        return attempt(job.candidate, self.bench, job.judge, started=job.started)


def new_study(settings: SearchSettings = SETTINGS, storage: InMemoryStorage | None = None) -> SearchStudy:
    return SearchStudy.attach(storage or InMemoryStorage(), TASK, settings, shown="memory")


def search(study: SearchStudy, executor: Shuffled) -> History:
    return run(study, Simulator(), cost, executor=executor).history


def check_replay(history: History, settings: SearchSettings) -> None:
    """Every proposal is what `propose` says for the candidates that had finished then, and those that were in flight."""
    in_order, by_number = list(history), sorted(history, key=lambda trial: trial.number)
    for trial in by_number[1:]:
        seen = History(in_order[: trial.candidate.known])
        for other in by_number[: trial.number]:
            if other.number not in seen:
                seen.expect(other.candidate)
        assert propose(seen, trial.number, settings, Simulator()) == trial.candidate


def test_one_worker_changes_nothing() -> None:
    refusing = SETTINGS.model_copy(update={"refuse": True})
    plain = run(new_study(refusing), Simulator(), cost).history
    assert essence(search(new_study(refusing), Shuffled(1, Simulator()))) == essence(plain)
    assert [trial.candidate.known for trial in plain] == list(range(41))


@pytest.mark.parametrize("workers", [2, 4, 9])
def test_proposals_follow_from_what_was_known(workers: int) -> None:
    simulator = Simulator()
    executor = Shuffled(workers, simulator, seed=workers)
    history = search(new_study(), executor)
    assert executor.most == workers and sorted(trial.number for trial in history) == list(range(41))
    assert len(simulator.calls) == len(set(simulator.calls))
    assert [trial.number for trial in history] != list(range(41))
    changes = [proposal_key(t.parent, t.candidate.action, t.teacher) for t in history if t.parent is not None]
    assert len(changes) == len(set(changes))
    check_replay(history, SETTINGS)


def test_nothing_runs_beside_the_base() -> None:
    class Watching(Shuffled):
        def submit(self, job: Job) -> None:
            super().submit(job)
            assert job.candidate.number == 0 or 0 not in [other.candidate.number for other in self.jobs]

    assert len(search(new_study(), Watching(5, Simulator()))) == 41


def test_a_spent_budget_waits_for_those_in_flight() -> None:
    study = new_study(SETTINGS.model_copy(update={"patience": 8, "trials": 1000}))
    result = run(study, Simulator(), cost, executor=Shuffled(4, Simulator(), seed=1))
    assert result.stopped_by == "patience" and not study.running
    assert 8 <= result.history.stale < 8 + 4


def test_a_request_to_stop_waits_for_those_in_flight() -> None:
    study = new_study()
    result = run(study, Simulator(), cost, executor=Shuffled(4, Simulator()), should_stop=lambda: len(study.history) >= 10)
    assert result.stopped_by == "request" and not study.running and len(result.history) == 13


def test_an_interrupted_run_does_again_only_what_was_in_flight(tmp_path) -> None:
    url, first, second = sqlite_url(tmp_path / "study.db"), Simulator(), Simulator()
    with SearchStudy.open(url, TASK, SETTINGS) as study:
        result = run(study, Simulator(), cost, executor=Shuffled(4, first, dies_after=15))
        assert result.stopped_by == "interrupt" and len(result.history) == 15
        in_flight = {candidate.number for candidate in study.running}
    assert len(in_flight) == 4
    with SearchStudy.open(url, TASK, SETTINGS) as study:
        assert essence(study.history) == essence(result.history)  # in the order in which they finished
        assert (study.history.generation, study.history.stale) == (result.history.generation, result.history.stale)
        assert {candidate.number for candidate in study.running} == in_flight
        history = search(study, Shuffled(4, second, seed=3))
    assert sorted(trial.number for trial in history) == list(range(41))
    assert not set(first.calls) & set(second.calls) and len(first.calls) + len(second.calls) == len(set(first.calls + second.calls))
    check_replay(history, SETTINGS)


def test_failures_in_a_row_leave_the_rest_to_be_done_again() -> None:
    failing = Simulator(failing={n: TrainingError("bad") for n in range(1, 9)})
    study = new_study(SETTINGS.model_copy(update={"max_failures": 3}))
    with pytest.raises(TrainingError, match="3 candidates in a row failed"):
        search(study, Shuffled(4, failing))
    assert len(study.running) == 3 and len(study.history) == 4
    assert len(search(study, Shuffled(4, Simulator()))) == 41
