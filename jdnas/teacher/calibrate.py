"""Batch norm statistics of a subnet, recomputed from images: a cut net's activations are not those of the net it was cut from."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from jdnas.models.detector import Detector
from jdnas.models.layers import Norm

CHUNK = 16


def chunks(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Regroup `[B, ...]` batches, however they were split, into chunks of `size` images; a smaller rest joins the last chunk."""
    waiting: list[Tensor] = []
    for batch in batches:
        for image in torch.split(batch, 1):
            if len(waiting) == 2 * size:
                yield torch.cat(waiting[:size])
                waiting = waiting[size:]
            waiting.append(image)
    if len(waiting) == 2 * size:
        yield torch.cat(waiting[:size])
        waiting = waiting[size:]
    if waiting:
        yield torch.cat(waiting)


class _Moments:
    """Count, sum and sum of squares of what reaches one norm, over all chunks."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        """Add a chunk, whose own mean and unbiased variance the norm (momentum 1) has just put into its running statistics."""
        count = inputs[0].numel() // inputs[0].shape[1]
        assert isinstance(norm, Norm) and norm.running_mean is not None and norm.running_var is not None
        mean, variance = norm.running_mean.double(), norm.running_var.double()
        self.count += count
        self.total = self.total + count * mean
        self.squares = self.squares + (count - 1) * variance + count * mean.square()

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and unbiased variance over all that was added."""
        mean = torch.as_tensor(self.total) / self.count
        variance = (torch.as_tensor(self.squares) - self.count * mean.square()) / max(1, self.count - 1)
        return mean, variance.clamp(min=0)


def recalibrate(detector: Detector, images: Iterable[Tensor], *, chunk: int = CHUNK) -> Detector:
    """Replace the running means and variances of `detector` by those of normalized images `[B, 3, H, W]`, in place; nothing else changes.

    The images go through in chunks of `chunk`, normalized chunk by chunk as in training; the statistics are those over all of
    them. How the caller splits the images into batches makes no difference. A ValueError says that there was no image.
    """
    norms = [module for module in detector.modules() if isinstance(module, Norm)]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms if norm.num_batches_tracked is not None]
    moments = [_Moments() for _ in norms]
    hooks = [norm.register_forward_hook(moment.add) for norm, moment in zip(norms, moments, strict=True)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    try:
        with torch.no_grad():
            for batch in chunks(images, chunk):
                detector.features(batch)
        if norms and not moments[0].count:
            raise ValueError("batch norm statistics need at least one image")
        for norm, moment in zip(norms, moments, strict=True):
            if moment.count:  # a norm behind the proposals sees no image here and keeps what it has
                mean, variance = moment.statistics()
                norm.running_mean.copy_(mean)  # type: ignore[union-attr]
                norm.running_var.copy_(variance)  # type: ignore[union-attr]
    finally:
        for norm, hook, (momentum, batches) in zip(norms, hooks, kept, strict=True):
            hook.remove()
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)  # type: ignore[union-attr]
        detector.eval()
    return detector
