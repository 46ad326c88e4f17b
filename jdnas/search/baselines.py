"""Random search over the same actions and teachers, which other searches are held against."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from jdnas.errors import TrainingError
from jdnas.search.attempt import Bench, Judge, attempt
from jdnas.search.history import History, Trial
from jdnas.search.objective import objective_for
from jdnas.search.propose import first_candidate, training_seed
from jdnas.search.settings import SearchSettings
from jdnas.search.workshop import Candidate, SearchTask
from jdnas.spec import DetectorSpec

if TYPE_CHECKING:  # optuna is slow to import
    from jdnas.search.study import SearchStudy

RANDOM_WALK = "random_walk"
MOST_ACTIONS = 4  # of a random candidate: about as many as lie between a search's result and its base
SampleTeacher = Callable[[random.Random], DetectorSpec]


def random_candidate(task: SearchTask, settings: SearchSettings, number: int, sample_teacher: SampleTeacher) -> Candidate:
    """Return candidate `number` of a random search: some random actions away from the base, with a random teacher."""
    if number == 0:
        return first_candidate(task, settings)
    rng = random.Random(f"random search {settings.seed} {number}")
    action = {"kind": RANDOM_WALK, "count": rng.randint(1, MOST_ACTIONS)}
    return Candidate(number, 0, 0, "student", action, task.base, sample_teacher(rng), training_seed(settings.seed, number))


def search_at_random(
    study: "SearchStudy", bench: Bench, sample_teacher: SampleTeacher, *, should_stop: Callable[[], bool],
    on_finish: Callable[[Trial, History], None] | None = None,
) -> History:  # fmt: skip
    """Evaluate random candidates, each on its own, until told to stop; nothing is refused or stopped early, and nothing descends.

    A study that was left is gone on with. `max_failures` failed candidates in a row raise a TrainingError.
    """
    judge, failures = Judge(study.task, objective_for(study.task, bench.cost, study.settings)), 0
    while study.running or not should_stop():
        if study.running:
            candidate = study.running[0]
        else:
            candidate = random_candidate(study.task, study.settings, len(study.history), sample_teacher)
            study.begin(candidate)
        trial = attempt(candidate, bench, judge)
        study.finish(trial)
        if on_finish is not None:
            on_finish(trial, study.history)
        failures = failures + 1 if trial.state == "failed" else 0
        if failures >= study.settings.max_failures:
            raise TrainingError(f"{failures} random candidates in a row failed, candidate {trial.number} with: {trial.reason}")
    return study.history
