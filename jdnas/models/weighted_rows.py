"""Weighted sums of gathered rows, `out[i] = sum_j weight[i, j] * rows[index[i, j]]`, in two forms with the same result."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_GATHERED_AT_ONCE = 1 << 26


def summed_products(rows: Tensor, index: Tensor, weight: Tensor, *, values_at_once: int | None = None) -> Tensor:
    """Sum by gathering and matrix products, in parts that bound the memory of the gathered rows.

    `rows` `[P, C]`, `index` int64 and `weight` `[N, M]` give `[N, C]`. Where a part's `values_at_once` fit into a processor's cache, sums
    read them from there; a GPU wants few large parts.
    """
    channels, reads = rows.shape[1], index.shape[1]
    at_once = max(1, (values_at_once or _GATHERED_AT_ONCE) // (reads * channels))
    parts = []
    for some_index, some_weight in zip(torch.split(index, at_once), torch.split(weight, at_once), strict=True):
        gathered = rows.index_select(0, some_index.reshape(-1)).reshape(-1, reads, channels)
        parts.append((some_weight.reshape(-1, 1, reads).to(rows.dtype) @ gathered).squeeze(1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def summed_bags(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Sum in one pass that stores no gathered row; the same shapes, computed in float32. Gradients reach `rows` alone."""
    result: Tensor = _SummedBags.apply(rows.float(), index, weight.float())
    return result.to(rows.dtype)


class _SummedBags(torch.autograd.Function):
    """An embedding bag whose gradient is one too: the transposed sum, with its reads sorted by the row that they read.

    PyTorch's own gradient of embedding bags sorts as well, but then adds row by row through BLAS.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(index, weight)
        ctx.pixels = rows.shape[0]
        return _bags(rows, index.reshape(-1), weight.reshape(-1), torch.arange(0, index.numel(), index.shape[1], device=index.device))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index, weight = ctx.saved_tensors
        pixels, order = index.reshape(-1).sort(stable=True)
        starts = torch.searchsorted(pixels, torch.arange(ctx.pixels, device=index.device))
        outputs = torch.div(order, index.shape[1], rounding_mode="floor")
        return _bags(grad.contiguous(), outputs, weight.reshape(-1)[order], starts), None, None


def _bags(rows: Tensor, index: Tensor, weight: Tensor, starts: Tensor) -> Tensor:
    return F.embedding_bag(index, rows, starts, mode="sum", per_sample_weights=weight)
