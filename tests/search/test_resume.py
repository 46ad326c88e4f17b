import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage

from jdnas.search.climb import run
from jdnas.search.history import Trial
from jdnas.search.settings import SearchSettings
from jdnas.search.study import SearchStudy, sqlite_url
from tests.search.simulated import SLOW, TASK, Simulator, cost, essence

ROOT = Path(__file__).parents[2]
WRITES = (
    "create_new_trial", "set_trial_system_attr", "set_trial_user_attr", "set_trial_intermediate_value", "set_trial_state_values",
    "set_study_system_attr", "set_study_user_attr", "create_new_study",
)  # fmt: skip
WORK = ("sample_action", "mutate_teacher", "evolve", "evaluate")


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


class Guillotine:
    """Kills before or after the n-th of the calls that it watches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.fatal: int | None = None
        for owner, names in ((RDBStorage, WRITES), (InMemoryStorage, WRITES), (Simulator, WORK)):
            for name in names:
                monkeypatch.setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, method):
        def call(*args, **kwargs):
            self._step()
            result = method(*args, **kwargs)
            self._step()
            return result

        return call

    def _step(self) -> None:
        self.calls += 1
        if self.calls == self.fatal:
            raise Killed


def finish(storage: BaseStorage | str, trials: int = 8, simulator: Simulator | None = None) -> list[Trial]:
    settings = SearchSettings(trials=trials, seed=3, patience=1000, k=1, optimistic_gain=0.0, stop_after=2, stop_quantile=0.6)
    if isinstance(storage, str):
        with SearchStudy.open(storage, TASK, settings) as study:
            return essence(run(study, simulator or Simulator(), cost).history)
    return essence(run(SearchStudy.attach(storage, TASK, settings, shown="memory"), simulator or Simulator(), cost).history)


def test_killed_at_every_point_the_trace_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    guillotine = Guillotine(monkeypatch)
    undisturbed = finish(InMemoryStorage())
    assert {trial.state for trial in undisturbed} == {"complete", "refused", "stopped"}
    points = guillotine.calls
    assert points > 100
    for fatal in range(1, points + 1):
        storage = InMemoryStorage()
        guillotine.calls, guillotine.fatal = 0, fatal
        with pytest.raises(Killed):
            finish(storage)
        guillotine.fatal = None
        assert finish(storage) == undisturbed, f"killed at call {fatal}"


def test_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = finish(InMemoryStorage(), trials=15)
    guillotine, rng = Guillotine(monkeypatch), random.Random(0)
    url = sqlite_url(tmp_path / "study.db")
    kills = 0
    while True:
        guillotine.calls, guillotine.fatal = 0, rng.randint(1, 60)
        try:
            assert finish(url, trials=15) == undisturbed
            break
        except Killed:
            kills += 1
    assert kills > 5


def test_nothing_finished_is_done_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    guillotine, storage, before, after = Guillotine(monkeypatch), InMemoryStorage(), Simulator(), Simulator()
    guillotine.fatal = 90
    with pytest.raises(Killed):
        finish(storage, simulator=before)
    guillotine.fatal = None
    finish(storage, simulator=after)
    first, second = ([call for call in simulator.calls if call.startswith("evaluate")] for simulator in (before, after))
    assert len(first) > 2 and second
    assert set(first) & set(second) <= {first[-1]}


def simulate(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.search.simulated", str(path)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)


def test_sigkill_at_random_moments(tmp_path: Path) -> None:
    rng, path = random.Random(2), tmp_path / "study.db"
    for finished in (2, 2):  # candidates to let finish, then some milliseconds more
        with simulate(path) as process:
            assert process.stdout is not None
            for _ in range(finished):
                process.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.04))
            process.kill()
        assert process.returncode == -9
    with simulate(path) as process:
        numbers = [int(line) for line in process.communicate(timeout=120)[0].split()]
    assert process.returncode == 0 and numbers[0] >= 4 and numbers[-1] == 15
    undisturbed = SearchStudy.attach(InMemoryStorage(), TASK, SLOW, shown="memory")
    run(undisturbed, Simulator(), cost)
    with SearchStudy.load(sqlite_url(path)) as study:
        assert essence(study.history) == essence(undisturbed.history)
