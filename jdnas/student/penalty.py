"""The sparsity penalty of student training: lambda * sum |gamma| (Joint-DetNAS, section 3.3; Liu et al. 2017)."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def sparsity_penalty(state: Mapping[str, Tensor], gammas: Iterable[str], weight: float) -> Tensor:
    """Return `weight` times the sum of the magnitudes of the entries `gammas` (see `prunable_gammas`): a float32 scalar.

    Its gradient is weight * sign(gamma), and 0 at 0. Computed in float32 whatever autocast is on. Every process of a training computes
    all of it and takes its part (`jdnas.models.global_batch.part_of_sum`), so that it counts once.
    """
    with torch.autocast(next(iter(state.values())).device.type, enabled=False):
        return weight * torch.stack([state[name].float().abs().sum() for name in gammas]).sum()
