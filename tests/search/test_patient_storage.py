"""A study's database that does not answer for a while."""

import errno
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError, ProgrammingError

from jdnas.errors import CheckpointError
from jdnas.search import study as module
from jdnas.search.climb import run
from jdnas.search.patient_storage import PatientStorage, Retry, passing_fault
from jdnas.search.settings import SearchSettings
from jdnas.search.study import SearchStudy, sqlite_url
from jdnas.search.workshop import Candidate, EarlyLook, Outcome
from jdnas.spec import DetectorSpec
from tests.search.simulated import TASK, Simulator, cost, essence

RULES = SearchSettings(trials=10, seed=3, patience=999, stop_after=2, k=2, optimistic_gain=0.0)
CALLS = (
    "get_study_id_from_name", "get_study_user_attrs", "set_study_user_attr", "get_study_system_attrs", "set_study_system_attr",
    "get_all_trials", "create_new_trial", "set_trial_system_attr", "set_trial_user_attr", "set_trial_intermediate_value",
    "set_trial_state_values", "create_new_study",
)  # fmt: skip
HERE = "postgresql://me@host/db"


class Clock:
    """Time that passes while one sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)

    def retry(self, seconds: float = 60.0, on_wait: Callable[[str], None] | None = None) -> Retry:
        return Retry(seconds, sleep=self.sleep, clock=lambda: self.now, on_wait=on_wait)


def gone(words: str = "server closed the connection unexpectedly") -> OperationalError:
    return OperationalError("SELECT 1", {}, RuntimeError(f"{words}\n\tthis probably means"))


def wrapped(error: Exception) -> StorageInternalError:
    """As Optuna's sessions raise it."""
    try:
        raise StorageInternalError("An exception is raised during the commit.") from error
    except StorageInternalError as made:
        return made


def failing(times: int, error: Exception) -> Callable[[int], int]:
    left = [times]

    def call(tries: int) -> int:
        if left[0]:
            left[0] -= 1
            raise error
        return tries

    return call


@pytest.mark.parametrize("error", [gone(), wrapped(gone())])
def test_it_tries_again_with_growing_pauses(error: Exception) -> None:
    clock, said = Clock(), list[str]()
    assert clock.retry(on_wait=said.append)(failing(7, error), HERE) == 7
    assert clock.pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert said == ["server closed the connection unexpectedly"] * 7


def test_it_gives_up_with_a_line_that_says_how_to_go_on() -> None:
    clock = Clock()
    with pytest.raises(CheckpointError) as caught:
        clock.retry(30.0)(failing(99, gone()), HERE)
    assert str(caught.value) == (
        "the study at postgresql://me@host/db has not answered for 30 s (server closed the connection unexpectedly); nothing finished is "
        "lost: continue with --resume once it is back"
    )
    assert 30 <= clock.now <= 40


@pytest.mark.parametrize(
    "error", [ProgrammingError("SELECT", {}, RuntimeError("no such table")), StorageInternalError("invalid data"), KeyError("name")]
)
def test_what_does_not_pass_is_raised_at_once(error: Exception) -> None:
    clock = Clock()
    with pytest.raises(type(error)):
        clock.retry()(failing(1, error), HERE)
    assert clock.pauses == []


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ("database is locked", True),
        ("database table is locked", True),
        ("disk I/O error", True),
        ("attempt to write a readonly database", False),
    ],
)
def test_of_sqlite_only_some_faults_pass(words: str, passes: bool) -> None:
    assert (passing_fault(gone(words), "sqlite:///a.db") == words) == passes


@pytest.mark.parametrize("where", [HERE, "sqlite:///study.db"])
def test_a_full_disk_is_no_reason_to_wait(where: str) -> None:
    words = "database or disk is full" if where.startswith("sqlite") else 'could not extend file "base/1": No space left on device'
    with pytest.raises(OSError, match="No space left on device") as caught:
        Clock().retry()(failing(1, wrapped(gone(words))), where)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, where)


class Unsteady:
    """Makes every n-th call of a database fail: before it does anything, or after it was done, when only the answer is lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, every: int, *, after: bool) -> None:
        self.calls = self.failures = 0
        for name in CALLS:
            monkeypatch.setattr(RDBStorage, name, self._unsteady(getattr(RDBStorage, name), every, after))

    def _unsteady(self, method: Callable[..., Any], every: int, after: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            fails = self.calls % every == 0
            if fails and not after:
                self.failures += 1
                raise wrapped(gone())
            result = method(*args, **kwargs)
            if fails:
                self.failures += 1
                raise wrapped(gone())
            return result

        return call


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("every", [9, 13])  # a result is a transaction of up to eight calls
def test_a_search_survives_an_unsteady_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, after: bool) -> None:
    with SearchStudy.open(sqlite_url(tmp_path / "steady.db"), TASK, RULES) as study:
        undisturbed = essence(run(study, Simulator(), cost).history)
    clock = Clock()
    monkeypatch.setattr(module, "Retry", lambda *args, **kwargs: clock.retry())
    monkeypatch.setattr("jdnas.search.patient_storage._SQLITE_PASSES", ("server closed",))
    unsteady = Unsteady(monkeypatch, every, after=after)
    url = sqlite_url(tmp_path / "unsteady.db")
    with SearchStudy.open(url, TASK, RULES) as study:
        assert essence(run(study, Simulator(), cost).history) == undisturbed
    with SearchStudy.load(url) as study:
        assert essence(study.history) == undisturbed and not study.running
    assert unsteady.failures > 5 and len(clock.pauses) == unsteady.failures


def test_a_search_waits_for_a_locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jdnas.search.study_url._LOCK_TIMEOUT_S", 0.05)
    path, said = tmp_path / "study.db", list[str]()
    locked, released = threading.Event(), threading.Event()

    def hold() -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        locked.set()
        time.sleep(1.5)
        other.execute("ROLLBACK")
        other.close()
        released.set()

    class Locking(Simulator):
        def evaluate(self, candidate: Candidate, student: DetectorSpec, look: EarlyLook | None = None) -> Outcome:
            if candidate.number == 2:
                holder.start()
                locked.wait()
            return super().evaluate(candidate, student, look)

    holder = threading.Thread(target=hold)
    with SearchStudy.open(sqlite_url(path), TASK, RULES, on_wait=said.append) as study:
        history = run(study, Locking(), cost).history
    holder.join()
    assert released.is_set() and len(history) == 11
    assert said and set(said) == {"database is locked"}


def test_a_full_disk_ends_the_search_and_loses_nothing(tmp_path: Path) -> None:
    url, limited = sqlite_url(tmp_path / "study.db"), [False]

    def limit(connection: sqlite3.Connection, _: object) -> None:
        if limited[0]:  # SQLite's own "database or disk is full", at the size that the file has
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    event.listen(Engine, "connect", limit)
    try:
        with SearchStudy.open(url, TASK, RULES) as study:
            run(study, Simulator(), cost, should_stop=lambda: len(study.history) >= 3)
        limited[0] = True
        with SearchStudy.open(url, TASK, RULES) as study, pytest.raises(OSError, match="No space left on device") as caught:
            run(study, Simulator(), cost)
        assert caught.value.errno == errno.ENOSPC
        assert len(study.history) >= 3
        limited[0] = False
        with SearchStudy.open(url, TASK, RULES) as study:
            resumed = essence(run(study, Simulator(), cost).history)
    finally:
        event.remove(Engine, "connect", limit)
    with SearchStudy.open(sqlite_url(tmp_path / "other.db"), TASK, RULES) as study:
        assert essence(run(study, Simulator(), cost).history) == resumed


def test_a_trial_whose_answer_was_lost_is_not_made_twice(tmp_path: Path) -> None:
    from optuna.study import StudyDirection
    from optuna.trial import TrialState, create_trial

    clock = Clock()
    storage = PatientStorage(sqlite_url(tmp_path / "study.db"), {}, clock.retry())
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE], "x")
    template = create_trial(state=TrialState.RUNNING, system_attrs={"proposal": {"number": 1, "widths": (1, 2)}})
    first = storage.create_new_trial(study_id, template)
    assert storage._same_trial(study_id, template) == first
    assert storage._same_trial(study_id, create_trial(state=TrialState.RUNNING, system_attrs={"proposal": {"number": 2}})) is None
    assert storage.set_trial_state_values(first, TrialState.COMPLETE, [1.0])
    assert storage._same_trial(study_id, template) is None
    storage.remove_session()
    storage.engine.dispose()


def test_a_result_whose_commit_was_not_answered_is_not_stored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, stored, store = sqlite_url(tmp_path / "study.db"), list[int](), SearchStudy._store
    monkeypatch.setattr(SearchStudy, "_store", lambda self, trial_id, trial: (stored.append(trial.number), store(self, trial_id, trial)))
    at_once = PatientStorage.at_once

    def unanswered(self: PatientStorage, write: Callable[[], None], trial_id: int) -> None:
        retry, self.retry = self.retry, lambda call, where: (call(0), call(1))[1]  # type: ignore[assignment]
        at_once(self, write, trial_id)
        self.retry = retry

    monkeypatch.setattr(PatientStorage, "at_once", unanswered)
    with SearchStudy.open(url, TASK, RULES) as study:
        history = essence(run(study, Simulator(), cost).history)
    assert stored == list(range(11))
    with SearchStudy.load(url) as study:
        assert essence(study.history) == history
