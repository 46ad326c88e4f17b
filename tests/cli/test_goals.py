import pytest

from jdnas.api.results import Run
from jdnas.api.settings import Goals, nested, run_config
from jdnas.config import dump
from jdnas.durations import seconds_from_text
from jdnas.errors import ConfigError
from tests.pipeline.conftest import jdnas


def test_short_options_are_settings() -> None:
    config = run_config({}, settings={"search.k": 4, "cost": "multiply_adds"}, goals=Goals(12, 8.5, None))
    assert (config.search.trials, config.search.max_cost, config.search.min_ap, config.search.k) == (12, 8.5, None, 4)
    assert config.cost == "latency"


def test_without_options_nothing_changes() -> None:
    assert Goals().settings() == {}
    assert run_config({"base": None}) == run_config({})


def test_one_goal_at_a_time() -> None:
    with pytest.raises(Exception, match="not both"):
        run_config({}, goals=Goals(None, 8.5, 0.3))


def test_dotted_and_nested_names() -> None:
    settings = {"search.trials": 3, "search": {"k": 2, "trials": 4}, "pool": {"train.lr": 0.1}, "pool.phases": [{"epochs": 1}]}
    assert nested(settings) == {"search": {"trials": 4, "k": 2}, "pool": {"train": {"lr": 0.1}, "phases": [{"epochs": 1}]}}


def test_what_is_named_counts_most(tmp_path) -> None:
    kept = tmp_path / "config.yaml"
    kept.write_text("seed: 5\nbase: r34\nsearch: {trials: 9}\n")
    resumed = run_config({"seed": 7}, settings={"seed": 6}, resumed=tmp_path)
    assert (resumed.seed, resumed.base, resumed.search.trials) == (7, "r34", 9)
    assert run_config({}, preset="quick", resumed=tmp_path).base == "r18"
    scheduled = run_config({}, schedule="1x", settings={"base_train.epochs": 2})
    assert (scheduled.base_train.decay, scheduled.base_train.epochs) == ("step", 2)


def test_the_ends_of_a_search() -> None:
    search = run_config({}, goals=Goals(budget="1h30m", patience=7, polish_epochs=2.0)).search
    assert (search.max_seconds, search.patience, search.polish_epochs) == (5400.0, 7, 2.0)
    assert run_config({}, goals=Goals(budget=60)).search.max_seconds == 60.0


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1.5h", 5400), ("1d 2h", 93600), ("2H", 7200)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_from_text(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 hours", "0h", "-2h", "2h3", "1.2.3h", "nan"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ConfigError, match="a budget is a time such as 2h"):
        seconds_from_text(text)


def test_the_password_of_a_study_is_in_no_settings_that_are_written() -> None:
    url = "postgresql://me:secret@host/db"
    config = run_config({"study_url": url})
    assert config.study_url == url
    written = [dump(config), repr(config), str(config.model_dump(mode="json")), str(config.model_dump())]
    assert not any("secret" in text for text in written) and "postgresql://me@host/db" in written[0]
    with pytest.raises(ConfigError) as caught:
        run_config({"study_url": [url]})
    assert "secret" not in str(caught.value)


def test_the_status_at_the_end_of_a_search_opens_its_database_with_the_password(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, asked = "postgresql://me:secret@host/db", []
    (tmp_path / "study.json").write_text("{}")
    monkeypatch.setattr("jdnas.api.search_students", lambda **_: Run(tmp_path))
    monkeypatch.setattr("jdnas.api.search_status", lambda run, study_url: {})
    monkeypatch.setattr("jdnas.pipeline.status.search_status", lambda run, top, study_url: asked.append(study_url))
    monkeypatch.setenv("JDNAS_STUDY_URL", url)
    code, out, err = jdnas("search", "--json", "--run-dir", tmp_path)
    assert code == 0 and asked == [url] and "secret" not in out, err
