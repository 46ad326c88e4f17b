import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jdnas.data.types import Batch
from jdnas.distill.settings import DistillSettings
from jdnas.models.bound import materialize
from jdnas.models.detector import build
from jdnas.models.weights import State, grow, permute
from jdnas.spec import DetectorSpec
from jdnas.teacher.settings import PhaseSettings, PoolSettings
from jdnas.teacher.shrink import ADAPTER, PhaseLoss, channel_orders, sandwich, train_pool
from jdnas.teacher.space import SubnetSpace, make_space
from jdnas.training.loop import trainable
from jdnas.training.settings import TrainSettings

PHASES = (
    PhaseSettings(epochs=1, depth_share=0.0, widths=(1.5,)),
    PhaseSettings(epochs=1, depth_share=1.0, widths=(1.0, 1.5), subnets=1, lr_factor=0.5),
)
SETTINGS = PoolSettings(widths=(1.0, 1.5), phases=PHASES, train=TrainSettings(batch=2, optimizer="adamw", lr=1e-3))
DISTILL = DistillSettings(feature=0.1)


def make_batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.tensor([[[4.0, 4.0, 30.0, 40.0]], [[20.0, 10.0, 60.0, 60.0]]])
    return Batch(
        images=torch.randn(2, 3, 64, 64, generator=generator), sizes_hw=torch.tensor([[64, 64], [64, 64]]), scales=torch.ones(2),
        boxes_xyxy=boxes, labels=torch.tensor([[1], [2]]), valid=torch.ones(2, 1, dtype=torch.bool), image_ids=torch.tensor([0, 1]),
    )  # fmt: skip


def batches(seed: int, start: int) -> Iterator[Batch]:
    step = start
    while True:
        yield make_batch(seed * 100 + step)
        step += 1


def start_state(small: DetectorSpec) -> tuple[SubnetSpace, State]:
    space = make_space(small, SETTINGS)
    torch.manual_seed(0)
    return space, grow(build(small).state_dict(), small, space.largest)


def run(small: DetectorSpec, folder: Path) -> tuple[SubnetSpace, State, list[dict[str, int]]]:
    space, state = start_state(small)
    trained, reports = train_pool(
        state, space, SETTINGS, DISTILL, images=6, batches=batches, device=torch.device("cpu"), seed=1, folder=folder
    )
    return space, trained, [report.visited for report in reports]


def test_phases_visit_what_they_say(small: DetectorSpec, tmp_path: Path) -> None:
    space, _, visited = run(small, tmp_path)
    assert visited[0] == {space.largest.key: 3}
    assert visited[1][space.largest.key] == visited[1][space.smallest.key] == 3
    drawn = [sandwich(space, PHASES[1], random.Random(f"{1001}/{step}")) for step in range(3)]
    assert sum(visited[1].values()) == 3 + sum(len(specs) for specs in drawn)


def test_training_moves_the_shared_state_and_subnets_load_strictly(small: DetectorSpec, tmp_path: Path) -> None:
    space, trained, _ = run(small, tmp_path)
    _, before = start_state(small)
    assert set(trained) == set(before)
    assert not torch.equal(trained["backbone.stem.conv.weight"], before["backbone.stem.conv.weight"])
    materialize(space.smallest, trained)


def test_interrupted_training_ends_in_the_same_state(small: DetectorSpec, tmp_path: Path) -> None:
    _, undisturbed, _ = run(small, tmp_path / "a")
    space, state = start_state(small)

    def dying(seed: int, start: int) -> Iterator[Batch]:
        for step, batch in enumerate(batches(seed, start), start):
            if seed == 1001 and step == 1:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        train_pool(state, space, SETTINGS, DISTILL, images=6, batches=dying, device=torch.device("cpu"), seed=1, folder=tmp_path / "b")
    assert (tmp_path / "b" / "phase_0.json").exists()
    _, resumed, _ = run(small, tmp_path / "b")
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_subnets_leave_the_running_statistics_alone(small: DetectorSpec) -> None:
    space, state = start_state(small)
    state[ADAPTER] = torch.eye(space.largest.neck)[:, :, None, None].clone()
    for parameter in trainable(state):
        parameter.requires_grad_(True)
    losses = PhaseLoss(space, state, PHASES[1], DISTILL, seed=0)(make_batch(0), 0)
    next(losses)
    after_largest = state["backbone.stem.norm.running_mean"].clone()
    assert after_largest.any()
    terms = next(losses)
    assert {"distill_feature", "distill_class", "distill_box"} <= set(terms)
    assert torch.equal(state["backbone.stem.norm.running_mean"], after_largest)


def test_subnet_gradients_stay_inside_the_cut(small: DetectorSpec) -> None:
    space, state = start_state(small)
    state[ADAPTER] = torch.eye(space.largest.neck)[:, :, None, None].clone()
    for parameter in trainable(state):
        parameter.requires_grad_(True)
    losses = PhaseLoss(space, state, PHASES[1].model_copy(update={"subnets": 0}), DISTILL, seed=0)(make_batch(0), 0)
    next(losses)
    sum(next(losses).values()).backward()  # type: ignore[union-attr]
    weight, narrow = state["backbone.stages.3.1.conv1.conv.weight"], space.smallest.stages[3]
    assert weight.grad is not None
    assert weight.grad[: narrow.inner[1], : narrow.width].any()
    assert not weight.grad[narrow.inner[1] :].any() and not weight.grad[:, narrow.width :].any()
    extra_block = state["backbone.stages.3.2.conv1.conv.weight"]
    assert extra_block.grad is None


def test_channels_are_ordered_by_the_weights_that_read_them(small: DetectorSpec) -> None:
    state = build(small).state_dict()
    reader = state["backbone.stages.1.0.conv2.conv.weight"]
    reader[:, 3] = 100.0
    orders = channel_orders(state, small)
    assert int(orders["s1.b0"][0]) == 3
    permuted = permute(state, small, orders)
    assert torch.equal(permuted["backbone.stages.1.0.conv2.conv.weight"][:, 0], reader[:, 3][orders["s1"]])
