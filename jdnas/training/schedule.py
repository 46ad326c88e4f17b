"""Learning rates over a training, and the schedules that the field calls by name."""

import math
from typing import Any

from jdnas.errors import ConfigError, unknown_name
from jdnas.training.settings import TrainSettings

STEP_FACTOR = 0.1
# Detectron2's multi-scale training: short sides 640 to 800 where tests use 800.
MULTI_SCALE = (0.8, 0.84, 0.88, 0.92, 0.96, 1.0)
_STEPS: dict[str, Any] = {"decay": "step", "optimizer": "sgd", "lr": 0.02, "weight_decay": 1e-4, "batch": 16}

SCHEDULES: dict[str, dict[str, Any]] = {
    # 12 epochs of COCO with steps after 8 and 11, and twice that (Detectron, Girshick et al. 2018). The paper trains its base with 2x+ms.
    "1x": {**_STEPS, "epochs": 12, "milestones": (8 / 12, 11 / 12), "scales": (1.0,)},
    "2x": {**_STEPS, "epochs": 24, "milestones": (16 / 24, 22 / 24), "scales": (1.0,)},
    "1x+ms": {**_STEPS, "epochs": 12, "milestones": (8 / 12, 11 / 12), "scales": MULTI_SCALE},
    "2x+ms": {**_STEPS, "epochs": 24, "milestones": (16 / 24, 22 / 24), "scales": MULTI_SCALE},
}


def schedule_named(name: str) -> dict[str, Any]:
    """Return the settings that a named schedule stands for; a ConfigError lists the names."""
    if name not in SCHEDULES:
        raise ConfigError(unknown_name("schedule", name, SCHEDULES, "Anything else is set with --set base_train.KEY=VALUE"))
    return dict(SCHEDULES[name])


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Return the learning rate of step `step` (from 0) of `steps`: linear warm-up, then cosine to the final factor or steps down."""
    warmup = settings.warmup * steps
    if step < warmup:
        return settings.lr * (step + 1) / (warmup + 1)
    if settings.decay == "step":
        return settings.lr * STEP_FACTOR ** sum(step >= milestone * steps for milestone in settings.milestones)
    progress = (step - warmup) / max(1.0, steps - warmup)
    floor = settings.final_lr_factor
    return settings.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def steps_of(epochs: float, images: int, batch: int) -> int:
    """Return the optimizer steps in `epochs` passes over `images` images, at least 1."""
    return max(1, round(epochs * images / batch))
