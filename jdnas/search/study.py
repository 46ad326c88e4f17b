"""The Optuna study that is the search's only state: one trial per candidate.

A trial is created together with its proposal, in one transaction, before any work is done, and gets its state last. So a trial found
running is a candidate to do again, under the same number and with the same proposal, whenever the run was killed.

Proposals and results are system attributes of the trials, since they are long; user attributes repeat what people look for, as
optuna-dashboard shows it. Proposing reads nothing back, so that a candidate costs the database the same however many there are.
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState
from sqlalchemy.exc import SQLAlchemyError

from jdnas.errors import CheckpointError
from jdnas.passwords import without_passwords
from jdnas.search.history import History, Trial, TrialState
from jdnas.search.patient_storage import PatientStorage, Retry
from jdnas.search.settings import SearchSettings
from jdnas.search.shown import in_words, shown_proposal, shown_search
from jdnas.search.study_url import engine_arguments, study_url
from jdnas.search.workshop import Candidate, SearchTask
from jdnas.spec import DetectorSpec

STUDY_NAME = "jdnas"
_READING_WAIT_S = 30.0
_HEADER = "jdnas_search"
_METRIC_NAMES = "study:metric_names"  # what Study.set_metric_names writes
_STATES: dict[TrialState, OptunaState] = {
    "complete": OptunaState.COMPLETE,
    "refused": OptunaState.PRUNED,
    "stopped": OptunaState.PRUNED,
    "failed": OptunaState.FAIL,
}
_PROPOSED = ("parent", "generation", "choice", "action", "origin", "teacher", "seed", "parent_files", "known")
_RESULT = (
    "student", "costs", "metrics", "size", "ap", "cost", "seconds", "overhead_seconds", "images", "files", "reason", "rung", "state"
)  # fmt: skip
_COLUMNS = ("ap", "cost", "size", "reason")  # again one by one, for optuna-dashboard


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file."""
    return f"sqlite:///{path}"


class SearchStudy:
    """A search's task, settings and history, kept in a database; one process at a time may run it."""

    def __init__(self, storage: BaseStorage, name: str, task: SearchTask, settings: SearchSettings) -> None:
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(name)
        self._trial_ids: dict[int, int] = {}
        self.task = task
        self.settings = settings
        self.history = History()
        self.running: list[Candidate] = []
        finished: list[tuple[int, Trial]] = []
        for frozen in storage.get_all_trials(self._study_id, deepcopy=False):
            candidate = _candidate_from_trial(frozen)
            if frozen.state.is_finished():
                finished.append(_trial_from_frozen(candidate, frozen))
            else:
                self._trial_ids[frozen.number] = storage.get_trial_id_from_study_id_trial_number(self._study_id, frozen.number)
                self.running.append(candidate)
                self.history.expect(candidate)
        for _, trial in sorted(finished, key=lambda place_and_trial: place_and_trial[0]):
            self.history.add(trial)

    @classmethod
    def open(
        cls, url: str, task: SearchTask, settings: SearchSettings, *, name: str = STUDY_NAME, on_wait: Callable[[str], None] | None = None
    ) -> Self:  # fmt: skip
        """Begin a study, or take up the one there; a CheckpointError when its task or rules were others (budgets may change).

        A database that does not answer later on is waited for; `on_wait` is told why.
        """
        storage = _connect(url, Retry(settings.database_wait_seconds, on_wait=on_wait))
        try:
            return cls.attach(storage, task, settings, name=name, shown=without_passwords(url))
        except BaseException:
            _disconnect(storage)
            raise

    @classmethod
    def attach(cls, storage: BaseStorage, task: SearchTask, settings: SearchSettings, *, name: str = STUDY_NAME, shown: str) -> Self:
        """Open a study in any Optuna storage; `shown` names it in errors."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            storage.create_new_study([StudyDirection.MAXIMIZE], name)
        except DuplicatedStudyError:
            _check_same_search(_header(storage, name), task, settings, shown)
        study_id = storage.get_study_id_from_name(name)
        storage.set_study_system_attr(study_id, _HEADER, {"task": task.to_dict(), "settings": settings.model_dump(mode="json")})
        storage.set_study_system_attr(study_id, _METRIC_NAMES, ["score"])
        for key, value in shown_search(task, settings).items():
            storage.set_study_user_attr(study_id, key, value)
        return cls(storage, name, task, settings)

    @classmethod
    def load(cls, url: str, *, name: str = STUDY_NAME) -> Self:
        """Read a study that is there, changing nothing, also while it runs; a CheckpointError when there is none."""
        database = study_url(url)
        if database.get_backend_name() == "sqlite" and not Path((database.database or "").removeprefix("file:")).is_file():
            raise CheckpointError(f"there is no search study at {without_passwords(url)}; start one with: jdnas search")
        storage = _connect(url, Retry(_READING_WAIT_S))
        try:
            try:
                header = _header(storage, name)
            except KeyError:
                header = None
            if header is None:
                raise CheckpointError(f"{without_passwords(url)} holds no search study {name!r}; start one with: jdnas search")
            return cls(storage, name, SearchTask.from_dict(header["task"]), SearchSettings.model_validate(header["settings"]))
        except BaseException:
            _disconnect(storage)
            raise

    def begin(self, candidate: Candidate) -> None:
        """Store a proposal, before any work on it."""
        proposal = {key: _plain(getattr(candidate, key)) for key in _PROPOSED}
        template = create_trial(state=OptunaState.RUNNING, user_attrs=shown_proposal(candidate), system_attrs={"proposal": proposal})
        trial_id = self._storage.create_new_trial(self._study_id, template)
        if self._storage.get_trial_number_from_id(trial_id) != candidate.number:
            self._storage.set_trial_state_values(trial_id, OptunaState.FAIL)
            raise CheckpointError(
                f"candidate {candidate.number} is in the study already; another run is writing to it: stop one of the two"
            )
        self._trial_ids[candidate.number] = trial_id
        self.running.append(candidate)
        self.history.expect(candidate)

    def finish(self, trial: Trial) -> bool:
        """Store a result and add it to the history; say whether the best score rose."""
        trial_id = self._trial_ids[trial.number]
        if isinstance(self._storage, PatientStorage):
            self._storage.at_once(lambda: self._store(trial_id, trial), trial_id)
        else:
            self._store(trial_id, trial)
        del self._trial_ids[trial.number]
        self.running = [candidate for candidate in self.running if candidate.number != trial.number]
        return self.history.add(trial)

    def _store(self, trial_id: int, trial: Trial) -> None:
        result = {key: _plain(getattr(trial, key)) for key in _RESULT} | {"place": len(self.history)}
        self._storage.set_trial_system_attr(trial_id, "result", result)
        if trial.rung is not None:
            self._storage.set_trial_intermediate_value(trial_id, max(1, round(self.settings.rung_epochs)), trial.rung)
        shown = {key: getattr(trial, key) for key in _COLUMNS} | {"student": in_words(trial.student)}
        for key, value in shown.items():
            if value is not None:
                self._storage.set_trial_user_attr(trial_id, key, value)
        self._storage.set_trial_state_values(trial_id, _STATES[trial.state], None if trial.score is None else [trial.score])

    def close(self) -> None:
        """Close the database."""
        _disconnect(self._storage)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _connect(url: str, retry: Retry) -> RDBStorage:
    address = study_url(url)
    try:
        return PatientStorage(address.render_as_string(hide_password=False), engine_arguments(address), retry)
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error
        reason = without_passwords(str(cause).splitlines()[0])
        raise CheckpointError(f"cannot open the search study at {without_passwords(url)}: {reason}") from error


def _disconnect(storage: BaseStorage) -> None:
    storage.remove_session()
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


def _header(storage: BaseStorage, name: str) -> dict[str, Any] | None:
    study_id = storage.get_study_id_from_name(name)
    header = storage.get_study_system_attrs(study_id).get(_HEADER) or storage.get_study_user_attrs(study_id).get(_HEADER)
    return header if isinstance(header, dict) else None


def _check_same_search(header: dict[str, Any] | None, task: SearchTask, settings: SearchSettings, shown: str) -> None:
    if header is None:  # killed while the study was created
        return
    changed = settings.changed_rules(header["settings"])
    changed += [key for key, value in task.to_dict().items() if header["task"].get(key) != value]
    if changed:
        raise CheckpointError(
            f"the search at {shown} was begun with another {', '.join(changed)}; resume with the old settings or use a new run folder"
        )


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, DetectorSpec) else value


def _kept(frozen: FrozenTrial, key: str) -> Any:
    return frozen.system_attrs.get(key, frozen.user_attrs.get(key))  # user attributes: where the first studies had them


def _candidate_from_trial(frozen: FrozenTrial) -> Candidate:
    if (proposal := _kept(frozen, "proposal")) is None:
        raise CheckpointError(f"trial {frozen.number} of the study is not of a search; use another study name or database")
    specs = {key: DetectorSpec.from_dict(proposal[key]) for key in ("origin", "teacher")}
    return Candidate(**(proposal | specs), number=frozen.number)


def _trial_from_frozen(candidate: Candidate, frozen: FrozenTrial) -> tuple[int, Trial]:
    """Return a finished trial, and its place in the order in which they finished."""
    if (result := _kept(frozen, "result")) is None:  # ended by something else than a search, such as a dashboard
        return frozen.number, Trial(candidate, "failed", candidate.origin, reason="no result was stored")
    place, student = result.get("place", frozen.number), DetectorSpec.from_dict(result["student"])
    result = {key: value for key, value in result.items() if key != "place"} | {"student": student}
    known = next(own for own, optunas in _STATES.items() if optunas == frozen.state)
    score = frozen.value if frozen.state == OptunaState.COMPLETE else None
    return place, Trial(**({"state": known} | result), candidate=candidate, score=score)
