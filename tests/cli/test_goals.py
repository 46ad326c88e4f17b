import pytest

from jdnas.api.settings import Goals, nested, run_config


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
