"""What a process needs to know where several of them hold parts of one batch: with it, they compute what one process would.

Losses divide by counts over the whole batch, the random samples of an image are those that it has in the whole batch, and norms that
are synchronized see all of its images. Outside of `as_part_of` a process holds the whole batch, and nothing here does anything.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """The `rank`-th of `world` equal parts of a batch; `add_up` sums a tensor over all parts, without gradient."""

    rank: int
    world: int
    add_up: Callable[[Tensor], Tensor]
    synchronized_norms: bool = False


_share: ContextVar[Share | None] = ContextVar("share", default=None)


@contextmanager
def as_part_of(share: Share | None) -> Iterator[None]:
    """Compute as the holder of a part of a batch."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def total(count: Tensor) -> Tensor:
    """Return a count of this part's rows as the count over the whole batch."""
    share = _share.get()
    return count if share is None else share.add_up(count)


def part_of_sum(term: Tensor) -> Tensor:
    """Return what this part contributes of a term that every part computes alike, such as a penalty on weights."""
    share = _share.get()
    return term if share is None else term / share.world


def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw float32 noise in [0, 1) for this part's images: the rows that they have in the noise of the whole batch."""
    share = _share.get()
    if share is None:
        return torch.rand(shape, generator=generator, device=generator.device)
    whole = torch.rand((shape[0] * share.world, *shape[1:]), generator=generator, device=generator.device)
    return whole[shape[0] * share.rank : shape[0] * (share.rank + 1)]


def synchronized_share() -> Share | None:
    """Return the share whose norms are synchronized, if they are."""
    share = _share.get()
    return share if share is not None and share.synchronized_norms else None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, share: Share) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.share = share
        return share.add_up(values)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return ctx.share.add_up(grad), None


def differentiable_sum(values: Tensor, share: Share) -> Tensor:
    """Sum a tensor over all parts; the gradient of the sum of all parts' losses reaches the values of each."""
    result: Tensor = _Sum.apply(values, share)
    return result


def synchronized_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, share: Share, *, momentum: float, eps: float
) -> Tensor:
    """Normalize `[B, C, H, W]` by statistics over the whole batch, and update the running ones (Peng et al. 2018, MegDet)."""
    values, shape = x.to(torch.promote_types(x.dtype, torch.float32)), (1, -1, 1, 1)
    rows = float(x.shape[0] * x.shape[2] * x.shape[3])  # the parts of a batch are equal and share their canvas
    rows *= share.world
    mean = differentiable_sum(values.sum((0, 2, 3)), share) / rows
    centred = values - mean.reshape(shape)
    variance = differentiable_sum(centred.square().sum((0, 2, 3)), share) / rows
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((variance * (rows / max(rows - 1, 1.0))).to(running_var.dtype), momentum)
    scale = weight * torch.rsqrt(variance + eps)
    return (centred * scale.reshape(shape) + bias.reshape(shape)).to(x.dtype)
