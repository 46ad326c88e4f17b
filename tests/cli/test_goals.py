import pytest

from jdnas.cli.run_commands import _config, _goals


def test_short_options_are_settings() -> None:
    config = _config(None, _goals(["search.k=4", "cost=multiply_adds"], 12, 8.5, None))
    assert (config.search.trials, config.search.max_cost, config.search.min_ap, config.search.k) == (12, 8.5, None, 4)
    assert config.cost == "latency"


def test_without_options_nothing_changes() -> None:
    assert _goals(["search.k=4"], None, None, None) == ["search.k=4"]


def test_one_goal_at_a_time() -> None:
    with pytest.raises(Exception, match="not both"):
        _config(None, _goals(None, None, 8.5, 0.3))
