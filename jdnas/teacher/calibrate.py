"""Batch norm statistics of a subnet, recomputed from images: a cut net's activations are not those of the net it was cut from."""

from collections.abc import Iterable

import torch
from torch import Tensor

from jdnas.models.detector import Detector
from jdnas.models.layers import Norm


def recalibrate(detector: Detector, images: Iterable[Tensor]) -> Detector:
    """Replace the running statistics of `detector` by the average over `[B, 3, H, W]` batches, in place; nothing else changes."""
    norms = [module for module in detector.modules() if isinstance(module, Norm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average over the batches
        norm.train()
    with torch.no_grad():
        for batch in images:
            detector.backbone(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return detector.eval()
