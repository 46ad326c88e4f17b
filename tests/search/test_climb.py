import math
from dataclasses import replace

import pytest
from optuna.storages import InMemoryStorage
from sqlalchemy import event
from sqlalchemy.engine import Engine

from jdnas.errors import CheckpointError, TrainingError
from jdnas.search.climb import run
from jdnas.search.history import History, Trial
from jdnas.search.objective import goal_of, objective_for
from jdnas.search.settings import SearchSettings
from jdnas.search.study import SearchStudy
from jdnas.search.workshop import Candidate, EarlyLook, Outcome
from jdnas.spec import DetectorSpec
from tests.search.simulated import LARGE, SMALL, TASK, Simulator, cost


def new_study(**settings: object) -> SearchStudy:
    rules = SearchSettings.model_validate({"trials": 40, "patience": 99, "stop_early": False, **settings})
    return SearchStudy.attach(InMemoryStorage(), TASK, rules, shown="memory")


def test_climbs() -> None:
    result = run(new_study(), Simulator(), cost)
    base, best = result.history[0], result.history.best()
    assert result.stopped_by == "trials" and len(result.history) == 41
    assert base.student == TASK.base and base.images == 0
    assert best.score is not None and base.score is not None and best.score > base.score
    assert best.cost is not None and base.cost is not None and best.cost < base.cost
    assert len(result.history.lineage(best.number)) > 2


def test_children_start_from_their_parents() -> None:
    history = run(new_study(), Simulator(), cost).history
    for trial in history.complete[1:]:
        parent = history[trial.candidate.parent or 0]
        assert trial.candidate.origin == parent.student and trial.candidate.parent_files == parent.files


def test_the_score_is_that_of_the_best_resolution() -> None:
    study = new_study(refuse=False)
    objective = objective_for(TASK, cost, study.settings)
    for trial in run(study, Simulator(), cost).history.complete:
        scores = {size: objective.score(trial.ap_at(f"{size[0]}x{size[1]}"), cost(trial.student, size), size) for size in (SMALL, LARGE)}
        assert trial.score == max(scores.values())


def test_refused_ones_are_not_trained_and_would_not_have_entered() -> None:
    simulator, study = Simulator(), new_study(optimistic_gain=0.0, k=2, trials=80)
    history = run(study, simulator, cost).history
    refused = [trial for trial in history if trial.state == "refused"]
    assert len(refused) > 5
    assert not {f"evaluate {trial.number}" for trial in refused} & set(simulator.calls)
    objective = objective_for(TASK, cost, study.settings)
    replayed = History()
    for trial in history:
        if trial.state == "refused":
            reached = objective.best({size: replayed.best_aps[size] for size in trial.costs}, trial.costs)[1]
            assert reached <= (replayed.score_at(2) or math.inf)
            assert trial.reason is not None and "the list starts at" in trial.reason
        replayed.add(trial)


def test_refusal_off_trains_everything() -> None:
    simulator = Simulator()
    history = run(new_study(refuse=False), simulator, cost).history
    assert [call for call in simulator.calls if call.startswith("eval")] == [f"evaluate {n}" for n in range(41)]
    assert {trial.state for trial in history} == {"complete"}


class Inert(Simulator):
    """Its actions change nothing, as a pruning that rounding undoes."""

    def evolve(self, candidate: Candidate) -> DetectorSpec:
        return candidate.origin


def test_actions_without_effect_are_refused() -> None:
    history = run(new_study(refuse=False, trials=10), Inert(), cost).history
    for trial in list(history)[1:]:
        assert (trial.state == "refused") == (trial.choice == "student")
    assert any(str(trial.reason).endswith("changes nothing") for trial in history)


def test_max_cost() -> None:
    limit = 0.6 * min(cost(TASK.base, size) for size in (SMALL, LARGE))
    study = new_study(max_cost=limit, trials=150)
    history = run(study, Simulator(), cost).history
    best = history.best()
    assert (history[0].score or 0) < 0 < (best.score or 0)
    assert best.cost is not None and best.cost <= limit
    within = [trial.ap_at(size) for trial in history.complete for size, price in trial.costs.items() if price <= limit]
    assert best.score == best.ap == max(within)
    goal = goal_of(best, study.settings)
    assert (
        goal is not None
        and goal.met
        and goal.sentence("ms").startswith(f"the best within the cost limit {limit:.6g} ms is candidate {best.number}")
    )


def test_budget_that_nothing_meets() -> None:
    study = new_study(max_cost=1e-3)
    history = run(study, Simulator(), cost).history
    fastest = min(price for trial in history.complete for price in trial.costs.values())
    goal = goal_of(history.best(), study.settings)
    assert goal is not None and not goal.met and goal.cost == fastest
    assert goal.sentence("ms").startswith("nothing meets the cost limit 0.001 ms: the fastest found was candidate ")
    assert f"cost {fastest:.6g} ms, AP {history.best().ap:.3f}" in goal.sentence("ms")


def test_min_ap() -> None:
    study = new_study(min_ap=0.3, trials=80)
    history = run(study, Simulator(), cost).history
    above = [price for t in history.complete for size, price in t.costs.items() if t.ap_at(size) >= 0.3]
    assert history.best().cost == min(above) and (history.best().ap or 0) >= 0.3
    goal = goal_of(history.best(), study.settings)
    assert goal is not None and goal.met and goal.sentence().startswith("the cheapest with AP 0.3 or more is candidate ")


@pytest.mark.parametrize(
    "error", [TrainingError("diverged"), MemoryError("out"), RuntimeError("CUDA out of memory\nsecond line"), CheckpointError("torn")]
)
def test_a_failed_candidate_is_marked_and_passed_over(error: Exception) -> None:
    history = run(new_study(refuse=False), Simulator(failing={3: error, 9: error}), cost).history
    assert [trial.number for trial in history if trial.state == "failed"] == [3, 9]
    assert history[3].reason == f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert len(history) == 41 and all(trial.parent not in (3, 9) for trial in history)


def test_failures_in_a_row_end_the_search() -> None:
    study = new_study(refuse=False, max_failures=3)
    failing = Simulator(failing={n: TrainingError(f"bad {n}") for n in (2, 3, 5, 6, 7, 8)})
    with pytest.raises(TrainingError, match="3 candidates in a row failed, candidate 7 with: TrainingError: bad 7; mend"):
        run(study, failing, cost)
    assert run(study, Simulator(), cost).stopped_by == "trials"


def test_a_failed_base_is_raised_and_done_again() -> None:
    study = new_study()
    with pytest.raises(TrainingError, match="diverged"):
        run(study, Simulator(failing={0: TrainingError("diverged")}), cost)
    assert len(run(study, Simulator(), cost).history) == 41


def test_programming_errors_and_full_disks_are_raised_and_the_candidate_done_again() -> None:
    study = new_study()
    for error in (TypeError("oops"), OSError(28, "No space left on device")):
        with pytest.raises(type(error)):
            run(study, Simulator(failing={4: error}), cost)
        assert [candidate.number for candidate in study.running] == [4]
    assert run(study, Simulator(), cost).stopped_by == "trials"


class Careless(Simulator):
    """Evaluates candidate 2 wrongly."""

    def __init__(self, metrics: dict[str, dict[str, float]]) -> None:
        super().__init__()
        self.wrong = metrics

    def evaluate(self, candidate: Candidate, student: DetectorSpec, look: EarlyLook | None = None) -> Outcome:
        outcome = super().evaluate(candidate, student, look)
        return replace(outcome, metrics=self.wrong) if candidate.number == 2 else outcome


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [({"96x96": {"ap": 0.5}}, "left out the resolutions 128x128"), ({"96x96": {"ap": 0.5}, "128x128": {"ap": math.nan}}, "not finite")],
)
def test_bad_evaluations_fail(metrics: dict[str, dict[str, float]], reason: str) -> None:
    history = run(new_study(refuse=False, trials=3), Careless(metrics), cost).history
    assert history[2].state == "failed" and reason in str(history[2].reason)


def test_patience() -> None:
    result = run(new_study(patience=6, trials=1000), Simulator(), cost)
    assert result.stopped_by == "patience"
    assert result.history.stale == 6 and len(result.history) - 1 == result.history.best().number + 6


def test_time_budget_counts_recorded_seconds() -> None:
    ticks = iter(range(10**6))
    study = new_study(max_seconds=50.0, refuse=False)
    result = run(study, Simulator(), cost, clock=lambda: float(next(ticks)))
    assert result.stopped_by == "time" and 50 <= result.history.seconds < 60
    assert all(trial.seconds == 1.0 for trial in result.history)
    assert run(study, Simulator(), cost).stopped_by == "time"


def test_stop_on_request_and_go_on() -> None:
    study = new_study()
    assert run(study, Simulator(), cost, should_stop=lambda: len(study.history) >= 7).stopped_by == "request"
    assert len(study.history) == 7 and not study.running
    assert run(study, Simulator(), cost).stopped_by == "trials"


def test_interrupt_returns_in_order() -> None:
    study = new_study(refuse=False)
    result = run(study, Simulator(failing={5: KeyboardInterrupt()}), cost)
    assert result.stopped_by == "interrupt" and len(result.history) == 5
    assert [candidate.number for candidate in study.running] == [5]


class Stuck(Simulator):
    """Nothing can be changed."""

    def sample_action(self, spec: DetectorSpec, rng: object, generation: int) -> None:
        return None

    def mutate_teacher(self, teacher: DetectorSpec, rng: object) -> None:
        return None


def test_exhausted() -> None:
    result = run(new_study(), Stuck(), cost)
    assert result.stopped_by == "exhausted" and len(result.history) == 1


def test_callbacks() -> None:
    seen: list[str] = []

    def started(candidate: Candidate, history: History) -> None:
        seen.append(f"start {candidate.number} of {len(history)}")

    def finished(trial: Trial, history: History) -> None:
        seen.append(f"finish {trial.number} of {len(history)}")

    run(new_study(trials=2), Simulator(), cost, on_start=started, on_finish=finished)
    assert seen == [f"{what} {n} of {n + more}" for n in range(3) for what, more in (("start", 0), ("finish", 1))]


def test_the_database_does_the_same_work_for_every_candidate() -> None:
    statements = [0]

    def count(*_: object) -> None:
        statements[-1] += 1

    event.listen(Engine, "before_cursor_execute", count)
    try:
        with SearchStudy.open("sqlite://", TASK, SearchSettings(trials=30, patience=1000, refuse=False, stop_early=False)) as study:
            run(study, Simulator(), cost, on_finish=lambda *_: statements.append(0))
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    assert len(set(statements[1:-1])) == 1 and 0 < statements[1] < 40
