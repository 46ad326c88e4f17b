from pathlib import Path

import pytest

from jdnas.config import resolve
from jdnas.errors import MissingExtraError
from jdnas.pipeline import scalars as module
from jdnas.pipeline.context import load_context
from jdnas.pipeline.run_folder import RunFolder
from jdnas.pipeline.scalars import NO_SCALARS, Scalars
from jdnas.training.schedule import learning_rate
from jdnas.training.settings import TrainSettings
from tests.pipeline.conftest import NANO, jdnas


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_training_is_recorded_step_by_step(tmp_path: Path) -> None:
    settings, told = TrainSettings(epochs=1, lr=0.5), []
    scalars = Scalars(tmp_path / "events")
    assert not (tmp_path / "events").exists()
    on_step = scalars.watching("base", settings, 4, lambda step, loss: told.append((step, loss)))
    for step in range(1, 5):
        on_step(step, 2.0 / step)
    counted = scalars.losses("pool", None)
    for step in (1, 2, 3):
        counted(step, 1.0)
    scalars.add("base/ap", 0.25, 4)
    scalars.flush()
    found = read(tmp_path / "events")
    assert found["base/loss"] == [(step, pytest.approx(2.0 / step)) for step in range(1, 5)] and len(told) == 4
    assert found["base/learning_rate"] == [(step, pytest.approx(learning_rate(step - 1, 4, settings))) for step in range(1, 5)]
    assert [step for step, _ in found["pool/loss"]] == [1, 2, 3] and found["base/ap"] == [(4, 0.25)]


def test_nothing_is_written_where_it_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    NO_SCALARS.add("base/ap", 0.5, 1)
    NO_SCALARS.flush()
    called = lambda step, loss: None  # noqa: E731
    assert NO_SCALARS.watching("base", TrainSettings(), 4, called) is called and NO_SCALARS.losses("pool", called) is called
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    config = resolve(str(NANO), {"tensorboard": True})
    with pytest.raises(MissingExtraError, match=r"jdnas\[tensorboard\]"):
        load_context(config, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_search_leaves_its_scalars(tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, err = jdnas("search", "--preset", NANO, "--run-dir", run, "--trials", 1, "--set", "tensorboard=true", "--quiet")
    assert code == 0, err
    found = read(run / "tensorboard")
    assert {"base/loss", "base/learning_rate", "base/ap", "pool/loss", "pool/largest_ap", "candidate_0001/loss", "search/score",
            "search/best_score", "search/ap", "search/cost"} <= set(found)  # fmt: skip
    assert [step for step, _ in found["base/loss"]] == [1, 2, 3] and [step for step, _ in found["search/ap"]] == [0, 1]
