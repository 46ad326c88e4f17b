"""Settings of one training."""

from typing import Literal

from pydantic import Field

from jdnas.settings import Settings


class TrainSettings(Settings):
    """One training: its length in epochs, optimizer, and schedule (linear warm-up, then cosine to `final_lr_factor`)."""

    epochs: float = Field(24, gt=0)
    batch: int = Field(16, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.02, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with a linearly rising learning rate")
    final_lr_factor: float = Field(0.01, ge=0, le=1)
    clip_norm: float = Field(10.0, gt=0)
    gamma_penalty: float = Field(1e-5, ge=0, description="lambda of the paper's sparsity term on BN gammas (section 3.3)")
