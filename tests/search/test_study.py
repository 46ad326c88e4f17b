from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from jdnas.errors import CheckpointError
from jdnas.search.climb import run
from jdnas.search.propose import first_candidate
from jdnas.search.settings import SearchSettings
from jdnas.search.shown import shown_proposal
from jdnas.search.study import STUDY_NAME, SearchStudy, sqlite_url
from tests.search.simulated import SMALL, TASK, Simulator, cost, essence

SETTINGS = SearchSettings(trials=12, seed=1, k=2, optimistic_gain=0.0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "study.db")


@pytest.fixture
def study(url: str) -> Iterator[SearchStudy]:
    with SearchStudy.open(url, TASK, SETTINGS) as study:
        yield study


def test_history_reads_back_as_it_was(study: SearchStudy, url: str) -> None:
    run(study, Simulator(failing={1: MemoryError("full")}), cost)
    with SearchStudy.load(url) as loaded:
        assert list(loaded.history) == list(study.history)
        assert {trial.state for trial in loaded.history} == {"complete", "refused", "stopped", "failed"}
        assert (loaded.task, loaded.settings, loaded.running) == (TASK, SETTINGS, [])


def test_optuna_sees_a_usual_study(study: SearchStudy, url: str) -> None:
    run(study, Simulator(failing={1: MemoryError("full")}), cost)
    seen = optuna.load_study(study_name=STUDY_NAME, storage=url)
    assert seen.best_trial.number == study.history.best().number
    assert seen.best_value == study.history.best().score
    assert seen.trials[1].state == optuna.trial.TrialState.FAIL
    attrs = seen.best_trial.user_attrs
    assert attrs["ap"] == study.history.best().ap and attrs["change"] == study.history.best().candidate.change
    assert seen.trials[1].user_attrs["reason"] == "MemoryError: full"


def test_begun_candidate_is_found_running(study: SearchStudy, url: str) -> None:
    candidate = first_candidate(TASK, SETTINGS)
    study.begin(candidate)
    with SearchStudy.open(url, TASK, SETTINGS) as again:
        assert again.running == [candidate] and len(again.history) == 0


def test_budgets_may_change_and_rules_may_not(study: SearchStudy, url: str) -> None:
    with SearchStudy.open(url, TASK, SETTINGS.model_copy(update={"trials": 50, "patience": 3, "max_seconds": 9.0})):
        pass
    with SearchStudy.load(url) as loaded:
        assert (loaded.settings.trials, loaded.settings.max_seconds) == (50, 9.0)
    with pytest.raises(CheckpointError, match="begun with another alpha, seed; resume with the old"):
        SearchStudy.open(url, TASK, SETTINGS.model_copy(update={"alpha": 0.2, "seed": 9}))
    with pytest.raises(CheckpointError, match="begun with another base, base_size_hw;"):
        SearchStudy.open(url, replace(TASK, base=TASK.teacher, base_size_hw=SMALL), SETTINGS)


def test_killed_before_the_header_was_written(url: str) -> None:
    storage = optuna.storages.RDBStorage(url)
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], STUDY_NAME)
    with pytest.raises(CheckpointError, match="holds no search study"):
        SearchStudy.load(url)
    with SearchStudy.open(url, TASK, SETTINGS) as study:
        assert len(study.history) == 0


def test_second_writer_is_noticed_and_both_can_resume(study: SearchStudy, url: str) -> None:
    run(study, Simulator(), cost, should_stop=lambda: len(study.history) == 3)
    with SearchStudy.open(url, TASK, SETTINGS) as other:
        run(other, Simulator(), cost, should_stop=lambda: len(other.history) == 5)
        with pytest.raises(CheckpointError, match="candidate 3 is in the study already; another run"):
            run(study, Simulator(), cost)
    with SearchStudy.open(url, TASK, SETTINGS) as again:
        assert again.history[5].state == "failed" and again.history[5].reason == "no result was stored"
        result = run(again, Simulator(), cost)
    assert len(result.history) == SETTINGS.trials + 1


def test_two_studies_in_one_database_do_not_mix(study: SearchStudy, url: str) -> None:
    with SearchStudy.open(url, TASK, SETTINGS.model_copy(update={"student_probability": 0.0}), name="teachers") as other:
        run(other, Simulator(), cost)
    run(study, Simulator(), cost)
    with SearchStudy.load(url, name="teachers") as other:
        assert {trial.choice for trial in other.history} == {"base", "teacher"}
    with SearchStudy.load(url) as loaded:
        assert essence(loaded.history) == essence(study.history)


def test_what_cannot_be_opened_is_said_in_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(CheckpointError, match="there is no search study at sqlite:.*study.db; start one"):
        SearchStudy.load(url)
    assert not (tmp_path / "study.db").exists()
    (tmp_path / "study.db").write_text("not a database, but long enough to be taken for the header of one" * 20)
    with pytest.raises(CheckpointError, match="cannot open the search study at sqlite:.*not a database"):
        SearchStudy.load(url)
    with pytest.raises(CheckpointError, match="unable to open database file"):
        SearchStudy.open(sqlite_url(tmp_path / "missing" / "study.db"), TASK, SETTINGS)
    with pytest.raises(CheckpointError) as caught:
        SearchStudy.open("postgresql+nodriver://me:secret@nowhere/x", TASK, SETTINGS)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_foreign_trials_are_named(url: str) -> None:
    with SearchStudy.open(url, TASK, SETTINGS):
        optuna.load_study(study_name=STUDY_NAME, storage=url).ask()
    with pytest.raises(CheckpointError, match="trial 0 of the study is not of a search"):
        SearchStudy.load(url)


def test_a_candidate_takes_two_transactions_and_a_look(url: str) -> None:
    commits = [0]

    def count(*_: object) -> None:
        commits[-1] += 1

    with SearchStudy.open(url, TASK, SETTINGS) as study:
        event.listen(Engine, "commit", count)
        try:
            run(study, Simulator(failing={1: MemoryError("full")}), cost, on_finish=lambda *_: commits.append(0))
        finally:
            event.remove(Engine, "commit", count)
    assert set(commits[:-1]) == {3}  # the proposal, a look at the number that it got, and all of the result


def test_people_see_lines_and_no_records(study: SearchStudy, url: str) -> None:
    run(study, Simulator(failing={1: MemoryError("full")}), cost)
    seen = optuna.load_study(study_name=STUDY_NAME, storage=url)
    assert seen.metric_names == ["score"] and seen.direction == optuna.study.StudyDirection.MAXIMIZE
    assert seen.user_attrs["score"] == "H = AP x (cost / base cost)^-0.15" and seen.user_attrs["sizes"] == "96x96, 128x128"
    assert seen.trials[0].user_attrs["student"] == "blocks 2-2-2-2, widths 32-64-128-256, neck 64"
    for trial in seen.trials:
        own = study.history[trial.number]
        assert (trial.user_attrs["parent"], trial.user_attrs["generation"]) == (own.parent, own.generation)
        assert all(len(str(value)) < 120 and not isinstance(value, dict | list) for value in trial.user_attrs.values())


def test_unused_values_of_an_action_are_not_shown() -> None:
    action = {"kind": "prune_layer", "stage": 0, "target": -1, "ratio": 0.0}
    assert shown_proposal(replace(first_candidate(TASK, SETTINGS), action=action))["details"] == "stage=0"
