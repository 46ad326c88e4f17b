"""Settings of one training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jdnas.settings import Settings

Share = Annotated[float, Field(gt=0, lt=1)]
Scale = Annotated[float, Field(gt=0, le=2)]


class TrainSettings(Settings):
    """One training: its length in epochs, optimizer, and schedule (linear warm-up, then cosine to `final_lr_factor`, or steps)."""

    epochs: float = Field(24, gt=0)
    batch: int = Field(16, ge=1, description="images per optimizer step, over all devices")
    accumulate: int = Field(1, ge=1, description="parts that the batch is computed in, one after the other, to save memory")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.02, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with a linearly rising learning rate")
    decay: Literal["cosine", "step"] = "cosine"
    milestones: tuple[Share, ...] = Field((2 / 3, 11 / 12), description="shares of the steps after which `step` multiplies by 0.1")
    final_lr_factor: float = Field(0.01, ge=0, le=1, description="where `cosine` ends")
    clip_norm: float = Field(10.0, gt=0)
    gamma_penalty: float = Field(1e-5, ge=0, description="lambda of the paper's sparsity term on BN gammas (section 3.3)")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the average of the weights that the training returns; 0: the last weights")
    norm: Literal["batch", "frozen", "sync"] = Field(
        "batch", description="statistics of BN: per device, the running ones, over all devices"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 autocast on GPUs that have it, else fp32")
    compile: bool = Field(False, description="compile the step of each resolution (torch.compile); for long trainings on one device")
    scales: tuple[Scale, ...] = Field((), description="factors on the base's resolution to draw from; none: the run's resolutions")
    patience: int = Field(0, ge=0, description="stop after so many evaluations without a better validation AP; 0: never")
    eval_epochs: float = Field(1.0, gt=0, description="epochs between those evaluations")

    @model_validator(mode="after")
    def _what_can_be_compiled(self) -> Self:
        if self.compile and self.norm == "sync":
            raise ValueError("a compiled step has no norm=sync; set compile=false")
        return self

    @model_validator(mode="after")
    def _batch_has_equal_parts(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} cannot be computed in {self.accumulate} equal parts (accumulate)")
        return self

    def lasting(self, epochs: float) -> Self:
        """Return the same training over other epochs; its average of the weights (`ema`) spans the same share of the steps as here."""
        ema = max(0.0, 1.0 - (1.0 - self.ema) * self.epochs / epochs) if self.ema else 0.0
        return self.model_copy(update={"epochs": epochs, "ema": ema})
