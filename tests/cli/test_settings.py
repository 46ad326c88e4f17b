from pathlib import Path

import yaml

from jdnas.config import dump, resolve
from jdnas.training.checkpoint import write_json

NANO = Path(__file__).parents[1] / "pipeline" / "nano.yaml"


def test_config_prints_a_preset_that_can_be_used(jdnas) -> None:
    printed = jdnas("config", "--set", "search.trials=7").out
    Path("mine.yaml").write_text(printed)
    again = jdnas("config", "--preset", "mine.yaml").out
    assert yaml.safe_load(again) == yaml.safe_load(printed) | {"preset": "mine.yaml"}
    assert yaml.safe_load(printed)["search"]["trials"] == 7


def test_options_win_over_set_and_set_wins_over_the_preset(jdnas, monkeypatch) -> None:
    taken = optimize_with(jdnas, monkeypatch, "--preset", NANO, "--set", "base=r34", "--set", "seed=5", "--seed", 6)
    assert (taken.base, taken.seed, taken.cost) == ("r34", 6, "multiply_adds")


def test_a_resumed_run_goes_on_with_its_own_settings(jdnas, monkeypatch) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text(dump(resolve(str(NANO), {"base": "r34"})))
    assert optimize_with(jdnas, monkeypatch).base == "r18"
    resumed = optimize_with(jdnas, monkeypatch, "--resume", "--set", "search.trials=9")
    assert (resumed.base, resumed.cost, resumed.search.trials, resumed.search.k) == ("r34", "multiply_adds", 9, 2)
    assert optimize_with(jdnas, monkeypatch, "--resume", "--preset", "quick").cost == "latency"


def test_resuming_with_another_base_is_refused(jdnas) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text(dump(resolve(str(NANO), {})))
    assert "was begun with base=r18 (now r34)" in jdnas("optimize", "--run-dir", "run", "--resume", "--base", "r34").error
    assert "holds a run already" in jdnas("optimize", "--run-dir", "run").error
    assert [path.name for path in Path("run").iterdir()] == ["config.yaml"]


def optimize_with(jdnas, monkeypatch, *arguments: object):
    taken = []

    def done(config, run_dir, **_) -> None:
        taken.append(config)
        write_json(run_dir / "summary.json", {"search": {}})

    monkeypatch.setattr("jdnas.pipeline.optimize.optimize", done)
    answer = jdnas("optimize", "--quiet", "--run-dir", "run", *arguments)
    assert answer.code == 0, answer.err
    return taken[0]
