"""An Optuna database that is waited for while it does not answer: restarted, out of reach, or locked by someone else."""

import errno
import json
import os
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from jdnas.errors import CheckpointError
from jdnas.passwords import without_passwords

T = TypeVar("T")
_FULL = ("disk is full", "no space left", "could not extend file")
_SQLITE_PASSES = ("locked", "busy", "disk i/o error", "unable to open database file")


@dataclass(frozen=True)
class Retry:
    """How long to try again, with growing pauses, what the database did not answer; `on_wait(reason)` is called before each pause."""

    seconds: float = 600.0
    first_pause: float = 0.5
    longest_pause: float = 10.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    on_wait: Callable[[str], None] | None = None

    def __call__(self, call: Callable[[int], T], where: str) -> T:
        """Return `call(tries so far)`; a CheckpointError says that `where` did not answer in time, an OSError that it is full."""
        started, pause, tries = self.clock(), self.first_pause, 0
        while True:
            try:
                return call(tries)
            except (StorageInternalError, SQLAlchemyError) as error:
                reason = passing_fault(error, where)
                if reason is None:
                    raise
                if self.clock() - started >= self.seconds:
                    raise CheckpointError(
                        f"the study at {where} has not answered for {self.seconds:g} s ({reason}); nothing finished is lost: "
                        "continue with --resume once it is back"
                    ) from error
            if self.on_wait is not None:
                self.on_wait(reason)
            self.sleep(pause)
            tries, pause = tries + 1, min(2 * pause, self.longest_pause)


def passing_fault(error: Exception, where: str) -> str | None:
    """Return in one line what a database failed with, where that may pass by itself; an OSError says that its disk is full."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DBAPIError):
        cause = cause.__cause__
    if cause is None:
        return None
    reason = without_passwords(str(cause.orig or cause).strip().partition("\n")[0])
    if any(words in reason.lower() for words in _FULL):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where) from error
    if "sqlite" in where.partition(":")[0]:
        return reason if any(words in reason.lower() for words in _SQLITE_PASSES) else None
    return reason if isinstance(cause, OperationalError | InterfaceError) or cause.connection_invalidated else None


class Once:
    """Takes the place of `Retry` where nothing is tried again."""

    def __call__(self, call: Callable[[int], T], where: str) -> T:
        """Return `call(0)`."""
        return call(0)


_once = Once()


class PatientStorage(RDBStorage):
    """An RDBStorage whose calls are tried again while the database does not answer."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any], retry: Retry) -> None:
        self.retry: Retry | Once = retry
        self.where = without_passwords(url)
        super().__init__(url, engine_kwargs)

    def at_once(self, write: Callable[[], None], trial_id: int) -> None:
        """Do all that `write` does to a trial, whose end is the last of it, in one transaction; it is tried again as a whole."""

        def attempt(tries: int) -> None:
            if tries and super(PatientStorage, self).get_trial(trial_id).state.is_finished():
                return  # the answer to an earlier try was lost
            with self._one_transaction():
                write()

        self.retry(attempt, self.where)

    @contextmanager
    def _one_transaction(self) -> Iterator[None]:
        patient = self.retry
        try:
            with self.engine.begin() as connection:
                self.scoped_session.remove()
                self.scoped_session.configure(bind=connection)  # whose sessions leave the commit to it
                self.retry = _once  # within a transaction that has failed, nothing can be tried again
                yield
        finally:
            self.retry = patient
            self.scoped_session.remove()
            self.scoped_session.configure(bind=self.engine)

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:  # noqa: D102
        return self.retry(lambda _: super(PatientStorage, self).create_new_study(directions, study_name), self.where)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: D102
        self.retry(lambda _: super(PatientStorage, self).set_study_system_attr(study_id, key, value), self.where)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:  # noqa: D102
        return self.retry(lambda _: super(PatientStorage, self).get_study_system_attrs(study_id), self.where)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: D102
        self.retry(lambda _: super(PatientStorage, self).set_study_user_attr(study_id, key, value), self.where)

    def get_study_id_from_name(self, study_name: str) -> int:  # noqa: D102
        return self.retry(lambda _: super(PatientStorage, self).get_study_id_from_name(study_name), self.where)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:  # noqa: D102
        return self.retry(lambda _: super(PatientStorage, self).get_study_user_attrs(study_id), self.where)

    def get_all_trials(  # noqa: D102
        self, study_id: int, deepcopy: bool = True, states: Container[OptunaState] | None = None
    ) -> list[FrozenTrial]:
        return self.retry(lambda _: super(PatientStorage, self).get_all_trials(study_id, deepcopy, states), self.where)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:  # noqa: D102
        return self.retry(lambda _: super(PatientStorage, self).get_trial_id_from_study_id_trial_number(study_id, trial_number), self.where)

    def get_trial_number_from_id(self, trial_id: int) -> int:  # noqa: D102
        return self.retry(lambda _: super(PatientStorage, self).get_trial_number_from_id(trial_id), self.where)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a trial once, also where the answer to an earlier try was lost."""

        def create(tries: int) -> int:
            if tries and template_trial is not None and (there := self._same_trial(study_id, template_trial)) is not None:
                return there
            return super(PatientStorage, self).create_new_trial(study_id, template_trial)

        return self.retry(create, self.where)

    def _same_trial(self, study_id: int, template: FrozenTrial) -> int | None:
        wanted = _content(template)
        running = super().get_all_trials(study_id, deepcopy=False, states=(OptunaState.RUNNING,))
        return next((trial._trial_id for trial in running if _content(trial) == wanted), None)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:  # noqa: D102
        self.retry(lambda _: super(PatientStorage, self).set_trial_user_attr(trial_id, key, value), self.where)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:  # noqa: D102
        self.retry(lambda _: super(PatientStorage, self).set_trial_system_attr(trial_id, key, value), self.where)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:  # noqa: D102
        self.retry(lambda _: super(PatientStorage, self).set_trial_intermediate_value(trial_id, step, intermediate_value), self.where)

    def set_trial_state_values(  # noqa: D102
        self, trial_id: int, state: OptunaState, values: Sequence[float] | None = None
    ) -> bool:
        def finish(tries: int) -> bool:
            try:
                return super(PatientStorage, self).set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                if not tries:
                    raise
                return True  # the answer to an earlier try was lost

        return self.retry(finish, self.where)


def _content(trial: FrozenTrial) -> str:
    return json.dumps([trial.user_attrs, trial.system_attrs], sort_keys=True)
