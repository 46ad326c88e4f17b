"""Adaptation layers: what brings a student's features to the width of its teacher's. They are trained and thrown away."""

from collections.abc import Mapping

import torch
from torch import Tensor

from jdnas.distill.settings import DistillSettings

PREFIX = "adapter."
FEATURE, IMITATION = f"{PREFIX}feature", f"{PREFIX}imitation"
RIDGE = 1e-3  # of the mean variance of the student's channels


def identity_adapter(reads: int, writes: int, kernel: int = 1) -> Tensor:
    """Return a convolution `[writes, reads, kernel, kernel]` that copies channel i to channel i: no loss for equal features."""
    weight = torch.zeros(writes, reads, kernel, kernel)
    weight[:, :, kernel // 2, kernel // 2] = torch.eye(writes, reads)
    return weight


def make_adapters(reads: int, writes: int, settings: DistillSettings) -> dict[str, Tensor]:
    """Return the adapters that the terms of `settings` need, by the names that they have in a trained state.

    The paper's f_adapt is a 1x1 convolution; that of fine-grained imitation is a 3x3 one.
    """
    adapters = {FEATURE: identity_adapter(reads, writes)} if settings.feature else {}
    return adapters | ({IMITATION: identity_adapter(reads, writes, kernel=3)} if settings.imitation else {})


def without_adapters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the detector's part of a trained state."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}


def fitted_adapter(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Return the 1x1 convolution `[C_t, C_s, 1, 1]` that brings student features closest to the teacher's, by ridge regression.

    `student` `[N, C_s, 7, 7]`, `teacher` `[N, C_t, 7, 7]`, `valid` `[N]` bool. Means take no part, so that the fit also holds for
    standardized features.
    """
    reads, goals = (features[valid].detach().double().transpose(0, 1).flatten(1) for features in (student, teacher))
    reads, goals = reads - reads.mean(1, keepdim=True), goals - goals.mean(1, keepdim=True)
    gram = reads @ reads.T
    ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight: Tensor = torch.linalg.solve(gram + ridge, reads @ goals.T)
    return weight.T.float()[:, :, None, None].contiguous()
