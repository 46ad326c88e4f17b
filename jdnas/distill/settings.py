"""Settings of distillation."""

from pydantic import Field

from jdnas.settings import Settings


class DistillSettings(Settings):
    """Weights of the distillation terms (paper 3.2) and whether RoI features are standardized before comparison."""

    feature: float = Field(1.0, ge=0)
    classification: float = Field(1.0, ge=0)
    localization: float = Field(1.0, ge=0)
    normalize_features: bool = False
