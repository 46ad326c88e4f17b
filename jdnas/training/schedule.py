"""Learning rates over a training."""

import math

from jdnas.training.settings import TrainSettings


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Return the learning rate of step `step` (from 0) of `steps`: linear warm-up, then cosine to the final factor."""
    warmup = settings.warmup * steps
    if step < warmup:
        return settings.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1.0, steps - warmup)
    floor = settings.final_lr_factor
    return settings.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def steps_of(epochs: float, images: int, batch: int) -> int:
    """Return the optimizer steps in `epochs` passes over `images` images, at least 1."""
    return max(1, round(epochs * images / batch))
