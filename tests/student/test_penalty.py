from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from jdnas.models.global_batch import Share, as_part_of
from jdnas.pipeline.detector_training import DetectorLoss
from jdnas.student.importance import prunable_gammas
from jdnas.student.penalty import sparsity_penalty
from jdnas.training.loop import trainable
from tests.models.specs import SIZE_HW, images, plain_spec, random_state

NAMES = ["a", "b"]


def _state() -> dict[str, Tensor]:
    return {"a": torch.tensor([1.0, -2.0, 0.0]), "b": torch.tensor([-0.5]), "c": torch.tensor([9.0])}


def test_penalty_worked_by_hand() -> None:
    state = {name: tensor.requires_grad_() for name, tensor in _state().items()}
    penalty = sparsity_penalty(state, NAMES, 1e-5)
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(3.5e-5)
    penalty.backward()
    assert torch.equal(state["a"].grad, 1e-5 * torch.tensor([1.0, -1.0, 0.0]))
    assert torch.equal(state["b"].grad, torch.tensor([-1e-5]))
    assert state["c"].grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_gammas_do_not_round_it(dtype: torch.dtype) -> None:
    gammas = {"a": torch.full((3000,), 1.0078125).requires_grad_()}  # exact in bfloat16; the sum of so many is not
    with torch.autocast("cpu", dtype):
        penalty = sparsity_penalty(gammas, ["a"], 1e-5)
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(3000 * 1.0078125e-5, rel=1e-6)
    half = {"a": gammas["a"].detach().to(dtype)}
    assert sparsity_penalty(half, ["a"], 1e-5).item() == pytest.approx(3000 * 1.0078125e-5, rel=1e-6)


def test_training_penalizes_prunable_gammas_and_nothing_else() -> None:
    spec = plain_spec("efficientnet_lite")
    state = {name: t.requires_grad_() if t.is_floating_point() else t for name, t in random_state(spec).items()}
    loss = DetectorLoss(spec, state, seed=0, gamma_penalty=1e-5)
    sparsity_penalty(state, loss.gammas, loss.gamma_penalty).backward()
    touched = {name for name, tensor in state.items() if tensor.grad is not None}
    assert touched == set(prunable_gammas(spec)) == {n for n in state if n.startswith("backbone.") and n.endswith("norm.weight")}
    for name in touched:
        assert torch.equal(state[name].grad, 1e-5 * state[name].detach().sign())


def _sparsity_gradients(world: int) -> list[Tensor]:
    """Return the gradients of the gammas' penalty in a training step, summed over `world` processes as the loop does."""
    spec = plain_spec("resnet_basic")
    state = random_state(spec)
    for tensor in trainable(state):
        tensor.requires_grad_()
    loss = DetectorLoss(spec, state, seed=0, gamma_penalty=1e-5)
    batch = SimpleNamespace(
        images=images(), sizes_hw=torch.tensor([SIZE_HW, SIZE_HW]), boxes_xyxy=torch.tensor([[[4.0, 4.0, 40.0, 36.0]]] * 2),
        labels=torch.ones(2, 1, dtype=torch.int64), valid=torch.ones(2, 1, dtype=torch.bool),
    )  # fmt: skip
    for rank in range(world):
        share = Share(rank, world, lambda tensor: tensor * world) if world > 1 else None
        with as_part_of(share):
            next(loss(batch, 0))["sparsity"].backward()  # type: ignore[arg-type]
    return [state[name].grad for name in loss.gammas]


def test_processes_that_add_up_their_gradients_penalize_once() -> None:
    alone, together = _sparsity_gradients(1), _sparsity_gradients(4)
    assert all(torch.allclose(a, b, rtol=1e-6, atol=0) and a.any() for a, b in zip(alone, together, strict=True))
