"""Settings of the elastic teacher pool."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from jdnas.settings import Settings
from jdnas.training.settings import TrainSettings

Factor = Annotated[float, Field(gt=0)]
Depth = Annotated[int, Field(ge=1)]


class PhaseSettings(Settings):
    """One phase of integrated progressive shrinking.

    `depth_share`: share of the depth range released (0: largest only); `widths`: released width factors; `subnets`: random
    subnets per step besides the largest and the smallest. `lr_factor` is on the pool's learning rate; `warmup` and
    `final_lr_factor` replace those of the pool's training for this phase, so that a rate need not restart with each phase.
    """

    epochs: float = Field(12, gt=0)
    depth_share: float = Field(1.0, ge=0, le=1)
    widths: tuple[Factor, ...] = Field((1.0, 1.25, 1.5), min_length=1)
    subnets: int = Field(1, ge=0)
    lr_factor: float = Field(1.0, gt=0)
    warmup: float | None = Field(None, ge=0, lt=1)
    final_lr_factor: float | None = Field(None, ge=0, le=1)

    def train(self, pool: TrainSettings) -> TrainSettings:
        """Return the settings of this phase's training."""
        own = {"warmup": self.warmup, "final_lr_factor": self.final_lr_factor}
        update = {"lr": pool.lr * self.lr_factor, "epochs": self.epochs} | {key: value for key, value in own.items() if value is not None}
        return pool.model_copy(update=update)


class PoolSettings(Settings):
    """The elastic teacher pool: its space around the base's widths W, its phases and its BN recalibration.

    `widths`: factors on W, per stage and for the neck; `elastic_stem`: for the stem too, where it is not tied to the first stage.
    `extra_depth`: blocks per stage above the base's depth; `fewer_depth`: blocks below it; `min_depths` and `max_depths` give the
    range outright, one number per stage. `bn_images`: training images that a teacher's BN statistics are recomputed from.
    """

    widths: tuple[Factor, ...] = Field((1.0, 1.25, 1.5), min_length=1)
    elastic_stem: bool = False
    extra_depth: int = Field(1, ge=0)
    fewer_depth: int = Field(0, ge=0)
    min_depths: tuple[Depth, ...] | None = None
    max_depths: tuple[Depth, ...] | None = None
    phases: tuple[PhaseSettings, ...] = Field(
        (
            PhaseSettings(epochs=24, depth_share=0.0, widths=(1.5,)),
            PhaseSettings(epochs=12, depth_share=0.5, widths=(1.25, 1.5), lr_factor=0.1),
            PhaseSettings(epochs=24, depth_share=1.0, widths=(1.0, 1.25, 1.5), lr_factor=0.3),
        ),
        min_length=1,
    )
    train: TrainSettings = TrainSettings()
    bn_images: int = Field(2000, ge=1)

    @model_validator(mode="after")
    def _norms_see_their_batches(self) -> Self:
        if self.train.norm == "frozen":
            raise ValueError("train.norm is frozen, but running statistics are those of no subnet: choose batch or sync")
        return self

    @model_validator(mode="after")
    def _subnets_are_cut_anew(self) -> Self:
        if self.train.compile:
            raise ValueError("train.compile is set, but every step trains other subnets, each of which would be compiled: set it to false")
        return self

    @model_validator(mode="after")
    def _phases_are_not_watched(self) -> Self:
        if self.train.patience:
            raise ValueError("train.patience is set, but phases of a pool do not stop early: set it to 0 and give each phase its epochs")
        return self

    @model_validator(mode="after")
    def _phases_use_known_widths(self) -> Self:
        for index, phase in enumerate(self.phases):
            if not set(phase.widths) <= set(self.widths) or max(phase.widths) != max(self.widths):
                raise ValueError(f"phase {index} widths {phase.widths} must be some of {self.widths} and hold the largest")
        return self
