import pytest
import torch
from torch import Tensor

from jdnas.training.loop import make_optimizer
from jdnas.training.momentum import named_momentum, set_momentum
from jdnas.training.settings import TrainSettings


def _weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.randn(3, 2, generator=generator).requires_grad_(), "b": torch.randn(4, generator=generator).requires_grad_()}


def _step(weights: dict[str, Tensor], optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for tensor in weights.values():
        tensor.grad = torch.randn(tensor.shape, generator=generator)
    optimizer.step()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_training_cut_in_two_goes_on_as_if_it_had_not_been(kind: str) -> None:
    settings = TrainSettings(optimizer=kind, lr=0.1)  # type: ignore[arg-type]
    whole, parts = _weights(), _weights()
    optimizer = make_optimizer(list(whole.values()), settings)
    for seed in range(5):
        _step(whole, optimizer, seed)
    first = make_optimizer(list(parts.values()), settings)
    for seed in range(3):
        _step(parts, first, seed)
    momentum = named_momentum(first, parts)
    assert {key.partition(".")[2] for key in momentum} == {"a.weight", "b"}
    second = make_optimizer(list(parts.values()), settings)
    assert set_momentum(second, parts, momentum) == 2
    for seed in (3, 4):
        _step(parts, second, seed)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_what_does_not_fit_starts_anew() -> None:
    weights = _weights()
    optimizer = make_optimizer(list(weights.values()), TrainSettings())
    momentum = {"momentum_buffer.a.weight": torch.ones(3, 2), "momentum_buffer.b": torch.ones(5), "momentum_buffer.gone": torch.ones(1)}
    assert set_momentum(optimizer, weights, momentum) == 1
    assert set(named_momentum(optimizer, weights)) == {"momentum_buffer.a.weight"}
    _step(weights, optimizer, 0)
    assert set(named_momentum(optimizer, weights)) == {"momentum_buffer.a.weight", "momentum_buffer.b"}


def test_copies_are_returned() -> None:
    weights = _weights()
    optimizer = make_optimizer(list(weights.values()), TrainSettings())
    _step(weights, optimizer, 0)
    found = named_momentum(optimizer, weights)
    found["momentum_buffer.b"].zero_()
    assert named_momentum(optimizer, weights)["momentum_buffer.b"].any()
