"""Settings of the elastic teacher pool."""

from pydantic import Field

from jdnas.settings import Settings
from jdnas.training.settings import TrainSettings


class PhaseSettings(Settings):
    """One phase of integrated progressive shrinking.

    `depth_share`: share of the depth range released (0: largest only); `widths`: released width factors; `subnets`: random
    subnets per step besides the largest and the smallest.
    """

    epochs: float = Field(12, gt=0)
    depth_share: float = Field(1.0, ge=0, le=1)
    widths: tuple[float, ...] = (1.0,)
    subnets: int = Field(1, ge=0)
    lr_factor: float = Field(1.0, gt=0)


class PoolSettings(Settings):
    """The elastic teacher pool: its space around the base's widths W, its phases and its BN recalibration.

    `extra_depth`: blocks per stage above the base's depth; `fewer_depth`: blocks below it; `widths`: factors on W.
    """

    widths: tuple[float, ...] = (1.0, 1.25, 1.5)
    extra_depth: int = Field(1, ge=0)
    fewer_depth: int = Field(0, ge=0)
    phases: tuple[PhaseSettings, ...] = (
        PhaseSettings(epochs=24, depth_share=0.0, widths=(1.5,)),
        PhaseSettings(epochs=12, depth_share=0.5, widths=(1.25, 1.5), lr_factor=0.1),
        PhaseSettings(epochs=24, depth_share=1.0, widths=(1.0, 1.25, 1.5), lr_factor=0.3),
    )
    train: TrainSettings = TrainSettings()
    bn_images: int = Field(2000, ge=1)
