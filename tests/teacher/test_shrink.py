import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from jdnas.data.types import Batch
from jdnas.distill.adapters import FEATURE, identity_adapter
from jdnas.distill.settings import DistillSettings
from jdnas.models.bound import materialize
from jdnas.models.detector import build
from jdnas.models.weights import State, grow, permute
from jdnas.spec import DetectorSpec
from jdnas.teacher.names import describe_subnet
from jdnas.teacher.settings import PhaseSettings, PoolSettings
from jdnas.teacher.shrink import VISITS, OnStep, PhaseLoss, channel_orders, load_phase, sandwich, sorted_by_l1, train_pool, visit_record
from jdnas.teacher.space import SubnetSpace, make_space
from jdnas.training.loop import trainable
from jdnas.training.settings import TrainSettings
from tests.teacher.conftest import small_spec

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


Trained = tuple[SubnetSpace, State, list[dict[str, int]]]


def run(small: DetectorSpec, folder: Path, on_step: OnStep | None = None) -> Trained:
    space, state = start_state(small)
    trained, reports = train_pool(
        state, space, SETTINGS, DISTILL, images=6, batches=batches, device=torch.device("cpu"), seed=1, folder=folder, on_step=on_step
    )
    return space, trained, [report.visited for report in reports]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(small_spec(), tmp_path_factory.mktemp("undisturbed"))


def test_steps_are_counted_over_all_phases_also_after_an_interruption(small: DetectorSpec, tmp_path: Path) -> None:
    whole: list[int] = []
    run(small, tmp_path, lambda step, _: whole.append(step))
    assert whole == list(range(1, len(whole) + 1)) and len(whole) > 3
    last = len(PHASES) - 1
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"phase_{last}{suffix}").unlink()
    rest: list[int] = []
    run(small, tmp_path, lambda step, _: rest.append(step))
    assert 0 < len(rest) < len(whole) and rest == whole[-len(rest) :]


def test_phases_visit_what_they_say(small: DetectorSpec, tmp_path: Path) -> None:
    space, _, visited = run(small, tmp_path)
    largest, smallest = (describe_subnet(space, spec) for spec in (space.largest, space.smallest))
    assert visited[0] == {largest: 3}
    assert visited[1][largest] == visited[1][smallest] == 3
    drawn = [spec for step in range(3) for spec in sandwich(space, PHASES[1], random.Random(f"{1001}/{step}"))]
    expected = Counter([largest] * 3 + [describe_subnet(space, spec) for spec in drawn])
    assert visited[1] == expected and len(expected) > 2


def test_training_moves_the_shared_state_and_subnets_load_strictly(small: DetectorSpec, tmp_path: Path) -> None:
    space, trained, _ = run(small, tmp_path)
    _, before = start_state(small)
    assert set(trained) == set(before)
    assert not torch.equal(trained["backbone.stem.conv.weight"], before["backbone.stem.conv.weight"])
    materialize(space.smallest, trained)


@pytest.mark.parametrize(("phase", "step"), [(0, 0), (0, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_interrupted_training_ends_in_the_same_state_and_counts(
    small: DetectorSpec, tmp_path: Path, undisturbed: Trained, phase: int, step: int, checkpoint_seconds: float
) -> None:
    # With a checkpoint after every step, and with none but those between phases.
    space, state = start_state(small)

    def dying(seed: int, start: int) -> Iterator[Batch]:
        for at, batch in enumerate(batches(seed, start), start):
            if seed == 1000 + phase and at == step:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        train_pool(
            state, space, SETTINGS, DISTILL, images=6, batches=dying, device=torch.device("cpu"), seed=1, folder=tmp_path,
            checkpoint_seconds=checkpoint_seconds,
        )  # fmt: skip
    assert (tmp_path / "phase_0.json").exists() == (phase > 0)
    assert (tmp_path / f"phase_{phase}.partial.safetensors").exists() == (step > 0 and checkpoint_seconds == 0)
    _, resumed, visited = run(small, tmp_path)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in undisturbed[1].items())
    assert visited == undisturbed[2]


def test_state_after_each_phase_is_kept(small: DetectorSpec, tmp_path: Path) -> None:
    space, trained, _ = run(small, tmp_path)
    first, last = load_phase(tmp_path, 0), load_phase(tmp_path, 1)
    assert all(torch.equal(tensor, last[name]) for name, tensor in trained.items())
    assert any(not torch.equal(tensor, last[name]) for name, tensor in first.items())
    materialize(space.largest, first)


def trainable_state(small: DetectorSpec) -> tuple[SubnetSpace, State]:
    space, state = start_state(small)
    state |= {FEATURE: identity_adapter(space.largest.neck, space.largest.neck), VISITS: visit_record(3, PHASES[1])}
    for parameter in trainable(state):
        parameter.requires_grad_(True)
    return space, state


def test_subnets_leave_the_running_statistics_alone(small: DetectorSpec) -> None:
    space, state = trainable_state(small)
    losses = PhaseLoss(space, state, PHASES[1], DISTILL, seed=0)(make_batch(0), 0)
    next(losses)
    after_largest = state["backbone.stem.norm.running_mean"].clone()
    assert after_largest.any()
    terms = next(losses)
    assert {"distill_feature", "distill_class", "distill_box"} <= set(terms)
    assert torch.equal(state["backbone.stem.norm.running_mean"], after_largest)


def test_subnet_gradients_stay_inside_the_cut(small: DetectorSpec) -> None:
    space, state = trainable_state(small)
    losses = PhaseLoss(space, state, PHASES[1].model_copy(update={"subnets": 0}), DISTILL, seed=0)(make_batch(0), 0)
    next(losses)
    sum(next(losses).values()).backward()  # type: ignore[union-attr]
    weight, narrow = state["backbone.stages.3.1.conv1.conv.weight"], space.smallest.stages[3]
    assert weight.grad is not None
    assert weight.grad[: narrow.inner[1], : narrow.width].any()
    assert not weight.grad[narrow.inner[1] :].any() and not weight.grad[:, narrow.width :].any()
    extra_block = state["backbone.stages.3.2.conv1.conv.weight"]
    assert extra_block.grad is None


def test_largest_net_teaches_without_learning_from_it(small: DetectorSpec) -> None:
    # The subnet's terms reach the shared state only through the subnet: what the largest net alone uses has no gradient.
    space, state = trainable_state(small)
    losses = PhaseLoss(space, state, PHASES[1].model_copy(update={"subnets": 0}), DISTILL, seed=0)(make_batch(0), 0)
    next(losses)
    terms = next(losses)
    torch.stack([term for name, term in terms.items() if name.startswith("distill")]).sum().backward()
    adapter = state[FEATURE].grad
    assert adapter is not None and adapter[:, : space.smallest.neck].any() and not adapter[:, space.smallest.neck :].any()
    head = state["box_head.fc6.weight"].grad
    assert head is not None and not head[:, space.smallest.neck * 49 :].any()


def test_warmup_of_distillation_holds_in_a_phase(small: DetectorSpec) -> None:
    def terms(warmup: float) -> dict[str, float]:
        space, state = trainable_state(small)
        distill = DISTILL.model_copy(update={"warmup": warmup})
        losses = PhaseLoss(space, state, PHASES[1].model_copy(update={"subnets": 0}), distill, seed=0)(make_batch(0), 0)
        next(losses)
        return {name: float(term.detach()) for name, term in next(losses).items()}

    full, rising = terms(0.0), terms(1.0)  # the record has 3 steps, and this is the first
    assert all(rising[name] == pytest.approx(full[name] / (3 if name.startswith("distill") else 1), rel=1e-5) for name in full)


def test_sorting_keeps_the_function_and_the_adapter_fitting(small: DetectorSpec) -> None:
    state = build(small).state_dict() | {FEATURE: torch.randn(small.neck, small.neck, 1, 1)}
    result = sorted_by_l1(state, small)
    pixels = torch.randn(1, 3, 64, 64)
    before, after = (
        F.conv2d(materialize(small, {n: t for n, t in s.items() if n != FEATURE}).features(pixels)[0], s[FEATURE]) for s in (state, result)
    )
    order = channel_orders({n: t for n, t in state.items() if n != FEATURE}, small)["neck"]
    assert torch.allclose(after, before[:, order], atol=1e-5)
    assert not torch.equal(order, torch.arange(small.neck))


def test_channels_are_ordered_by_the_weights_that_read_them(small: DetectorSpec) -> None:
    state = build(small).state_dict()
    reader = state["backbone.stages.1.0.conv2.conv.weight"]
    reader[:, 3] = 100.0
    orders = channel_orders(state, small)
    assert int(orders["s1.b0"][0]) == 3
    permuted = permute(state, small, orders)
    assert torch.equal(permuted["backbone.stages.1.0.conv2.conv.weight"][:, 0], reader[:, 3][orders["s1"]])
