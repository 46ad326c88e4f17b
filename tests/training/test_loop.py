import contextlib
import random
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jdnas.data.types import Batch
from jdnas.errors import CheckpointError, TrainingError
from jdnas.models.weights import State
from jdnas.training.loop import MAX_SKIPPED_IN_A_ROW, LossTerms, Resume, Watch, fit, trainable
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


def falling_after(steps: int) -> Watch:
    """Rates a state by its distance from where `steps` steps lead, so that the best one is near there."""
    return Watch(lambda state: -abs(float(state["bias"].detach().double().sum()) - 0.02 * steps), every=3, patience=3)


@pytest.mark.parametrize(("optimizer", "more"), [("sgd", {}), ("adamw", {}), ("adamw", {"ema": 0.9, "accumulate": 2, "norm": "frozen"})])
@pytest.mark.parametrize("watch", [None, falling_after(3)])
def test_resumed_training_equals_an_undisturbed_one_bit_for_bit(optimizer: str, more: Any, watch: Watch | None, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"optimizer": optimizer, **more})
    whole = make_state()
    reference = fit(whole, Regression(whole), batches, settings, steps=20, device=CPU, watch=watch)
    rng, resume = random.Random(f"{optimizer}{more}{watch}"), Resume(tmp_path / "partial.safetensors", seconds=0.0)
    for stop in sorted(rng.sample(range(1, reference.steps + 1), 3)):  # killed at random steps, several times

        def dies(step: int, loss: float, stop: int = stop) -> None:
            if step == stop:
                raise KeyboardInterrupt

        state = make_state()
        with contextlib.suppress(KeyboardInterrupt):
            fit(state, Regression(state), batches, settings, steps=20, device=CPU, resume=resume, on_step=dies, watch=watch)
    again = make_state()
    report = fit(again, Regression(again), batches, settings, steps=20, device=CPU, resume=resume, watch=watch)
    assert replace(report, seconds=0) == replace(reference, seconds=0)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_the_average_is_the_one_worked_by_hand() -> None:
    seen: list[torch.Tensor] = []
    state = make_state()
    settings = SETTINGS.model_copy(update={"ema": 0.5})
    fit(state, Regression(state), batches, settings, steps=4, device=CPU, on_step=lambda *_: seen.append(plain["bias"].clone())) if (
        plain := state
    ) else None
    expected = torch.zeros(4)
    for step, bias in enumerate(seen, start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * bias
    assert torch.allclose(state["bias"], expected, atol=1e-7)
    assert not torch.allclose(state["bias"], seen[-1], atol=1e-4)


def test_a_batch_in_parts_takes_the_same_steps() -> None:
    def halves(start: int) -> Iterator[Batch]:
        for batch in batches(start // 2):
            for rows in (slice(0, 1), slice(1, 2)):
                yield Batch(**{f.name: getattr(batch, f.name)[rows] for f in fields(Batch)})

    whole, parts = make_state(), make_state()
    first = fit(whole, Regression(whole), batches, SETTINGS, steps=6, device=CPU)
    second = fit(parts, Regression(parts), halves, SETTINGS.model_copy(update={"accumulate": 2}), steps=6, device=CPU)
    assert (second.steps, second.images) == (first.steps, first.images) == (6, 12)
    assert second.curve == [(step, pytest.approx(loss, rel=1e-5)) for step, loss in first.curve]
    assert all(torch.allclose(whole[name], parts[name], atol=1e-5) for name in whole)


def test_training_stops_early_with_its_best_weights() -> None:
    seen: dict[int, State] = {}
    state = make_state()

    def keep(step: int, loss: float) -> None:
        seen[step] = {name: tensor.detach().clone() for name, tensor in state.items()}

    scores = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    report = fit(
        state, Regression(state), batches, SETTINGS, steps=50, device=CPU, on_step=keep, watch=Watch(lambda _: next(scores), 5, 2)
    )  # fmt: skip
    assert report.stopped_early and report.steps == 20  # the score of step 20 is no better than that of step 10
    assert report.scores == [(5, 0.1), (10, 0.3), (15, 0.2), (20, 0.3)]
    assert all(torch.equal(state[name], seen[10][name]) for name in state)


def test_frozen_norms_are_not_trained() -> None:
    state = {
        "a.norm.weight": torch.ones(2),
        "a.norm.bias": torch.ones(2),
        "a.norm.running_mean": torch.ones(2),
        "a.conv.bias": torch.ones(2),
    }
    assert [t is state["a.conv.bias"] for t in trainable(state, norms=False)] == [True]
    assert len(trainable(state)) == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision(precision: str) -> None:
    found = []

    def loss_of(batch: Batch, step: int) -> Iterator[LossTerms]:
        product = batch.images.mean((2, 3)) @ state["weight"].T
        found.append(product.dtype)
        yield {"product": product.square().mean()}

    state = make_state()
    fit(state, loss_of, batches, SETTINGS.model_copy(update={"precision": precision}), steps=2, device=CPU)
    assert found == [torch.bfloat16 if precision == "bf16" else torch.float32] * 2
    assert state["weight"].dtype == torch.float32


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


def test_a_skipped_step_leaves_its_parts_to_no_other_step() -> None:
    """The first of two parts is not finite; the second is dropped with it."""
    seen: list[tuple[int, float]] = []

    class Watched(Regression):
        def __call__(self, batch: Batch, step: int) -> Iterator[LossTerms]:
            seen.append((step, float(batch.images.sum())))
            return super().__call__(batch, step)

    state, expected = make_state(), [float(batch.images.sum()) for _, batch in zip(range(6), batches(0), strict=False)]
    settings = SETTINGS.model_copy(update={"accumulate": 2})
    report = fit(state, Watched(state, frozenset({2})), batches, settings, steps=3, device=CPU)
    assert (report.skipped, report.images) == (1, 12)
    assert seen == [(part, pytest.approx(expected[part], rel=1e-4)) for part in (0, 1, 2, 4, 5)]


def test_what_another_training_left_is_not_continued(tmp_path: Path) -> None:
    def dies(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    path, state = tmp_path / "partial.safetensors", make_state()
    with pytest.raises(KeyboardInterrupt):
        fit(state, Regression(state), batches, SETTINGS, steps=8, device=CPU, resume=Resume(path, 0.0, "one"), on_step=dies)
    for identity, first in (("another", 1), ("one", 5)):
        asked: list[int] = []
        again = make_state()
        resume = Resume(path, 999.0, identity)
        fit(
            again,
            Regression(again),
            batches,
            SETTINGS,
            steps=8,
            device=CPU,
            resume=resume,
            on_step=lambda step, _, to=asked: to.append(step),
        )
        assert asked[0] == first
