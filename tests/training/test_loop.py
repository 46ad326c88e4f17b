from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jdnas.data.types import Batch
from jdnas.errors import CheckpointError, TrainingError
from jdnas.models.weights import State
from jdnas.training.loop import MAX_SKIPPED_IN_A_ROW, LossTerms, Resume, fit
from jdnas.training.schedule import learning_rate, steps_of
from jdnas.training.settings import TrainSettings

CPU = torch.device("cpu")
SETTINGS = TrainSettings(batch=2, optimizer="adamw", lr=0.05, weight_decay=0.01)


def batches(start: int) -> Iterator[Batch]:
    step = start
    while True:
        images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        empty = torch.zeros(2, 0, dtype=torch.int64)
        yield Batch(images, empty, torch.ones(2), torch.zeros(2, 0, 4), empty, empty.bool(), torch.zeros(2, dtype=torch.int64))
        step += 1


def make_state() -> State:
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    filters = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    return {"weight": weight, "bias": torch.zeros(4), "filters": filters, "norm.running_mean": torch.ones(4)}


class Regression:
    def __init__(self, state: State, bad_steps: frozenset[int] = frozenset()) -> None:
        self.state, self.bad_steps = state, bad_steps

    def __call__(self, batch: Batch, step: int) -> Iterator[LossTerms]:
        x = batch.images.mean((2, 3))
        error = (x @ self.state["weight"].T + self.state["bias"] - x.sum(1, keepdim=True)).square().mean()
        filtered = torch.conv2d(batch.images, self.state["filters"]).square().mean()
        yield {"error": error * float("nan") if step in self.bad_steps else error, "filtered": 0.01 * filtered}


def test_training_learns_and_leaves_buffers_alone() -> None:
    state = make_state()
    report = fit(state, Regression(state), batches, SETTINGS, steps=200, device=CPU)
    assert report.steps == 200 and report.images == 400 and report.skipped == 0
    assert report.curve[-1][1] < 0.1 * report.curve[0][1]
    assert torch.equal(state["norm.running_mean"], torch.ones(4))
    assert not state["weight"].requires_grad


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_training_equals_an_undisturbed_one_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    whole = make_state()
    fit(whole, Regression(whole), batches, settings, steps=20, device=CPU)
    state, resume = make_state(), Resume(tmp_path / "partial.safetensors", seconds=0.0)

    def dies(step: int, loss: float) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(state, Regression(state), batches, settings, steps=20, device=CPU, resume=resume, on_step=dies)
    again = make_state()
    report = fit(again, Regression(again), batches, settings, steps=20, device=CPU, resume=resume)
    assert report.images == 40
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_steps_that_are_not_finite_are_skipped_and_counted() -> None:
    state = make_state()
    report = fit(state, Regression(state, frozenset({0, 3})), batches, SETTINGS, steps=6, device=CPU)
    assert report.skipped == 2
    assert bool(torch.isfinite(state["weight"]).all())


def test_endless_non_finite_loss_is_an_error() -> None:
    state = make_state()
    with pytest.raises(TrainingError, match="not finite"):
        fit(state, Regression(state, frozenset(range(100))), batches, SETTINGS, steps=MAX_SKIPPED_IN_A_ROW + 5, device=CPU)


def test_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    state, resume = make_state(), Resume(tmp_path / "partial.safetensors", seconds=0.0)
    fit(state, Regression(state), batches, SETTINGS, steps=3, device=CPU, resume=resume)
    other = {"weight": torch.zeros(4, 3), "bias": torch.zeros(4), "more": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="another training"):
        fit(other, Regression(other), batches, SETTINGS, steps=3, device=CPU, resume=replace(resume))


def test_every_yield_counts() -> None:
    state, once = make_state(), make_state()

    def twice(batch: Batch, step: int) -> Iterator[LossTerms]:
        for _ in range(2):
            yield {k: v / 2 for k, v in next(Regression(state)(batch, step)).items()}

    fit(state, twice, batches, SETTINGS, steps=5, device=CPU)
    fit(once, Regression(once), batches, SETTINGS, steps=5, device=CPU)
    assert torch.allclose(state["weight"], once["weight"], atol=1e-6)


def test_schedule_warms_up_and_decays_to_the_floor() -> None:
    settings = TrainSettings(lr=1.0, warmup=0.1, final_lr_factor=0.01)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == pytest.approx(1.0) and rates.index(max(rates)) == 10
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert 0.01 < rates[-1] < 0.02


def test_steps_of_epochs() -> None:
    assert steps_of(2, 10, 4) == 5
    assert steps_of(0.01, 10, 4) == 1
