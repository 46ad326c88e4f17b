from pathlib import Path

import pytest
import torch
from torch import Tensor

from jdnas.pipeline.detector_training import DetectorLoss
from jdnas.student.importance import prunable_gammas
from jdnas.student.penalty import sparsity_penalty
from tests.models.specs import plain_spec, random_state
from tests.student.two_processes import DATA, Scale, work

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


@pytest.mark.slow
def test_two_processes_that_average_gradients_penalize_once(tmp_path: Path) -> None:
    single = Scale()
    single(DATA).backward()
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        assert torch.allclose(torch.load(tmp_path / f"{rank}.pt", weights_only=True), single.gamma.grad)
