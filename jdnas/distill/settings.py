"""Settings of distillation."""

from typing import Literal

from pydantic import Field

from jdnas.settings import Settings

Method = Literal["ours", "logit", "fgfi"]


class DistillSettings(Settings):
    """Weights of the distillation terms, and how they are computed.

    `feature`, `classification`, `localization`: the three terms of the paper (3.2). `imitation`: fine-grained feature imitation
    (Wang et al. 2019), for comparison. `normalize_features`: standardize channels before features are compared. `adapter`: where the
    adaptation layer starts, from a copy of the common channels or from a least-squares fit of the teacher's features on one batch.
    `temperature`: of the class scores. `warmup`: share of the steps over which all weights rise linearly from 0.
    `until_epochs`: epochs of one training after which the teacher is asked no more (None: to its end, as in the paper); a student that
    outgrows its teacher is held back by it (early-stopped distillation, Cho & Hariharan 2019).
    """

    feature: float = Field(1.0, ge=0)
    classification: float = Field(1.0, ge=0)
    localization: float = Field(1.0, ge=0)
    imitation: float = Field(0.0, ge=0)
    normalize_features: bool = False
    adapter: Literal["copy", "least_squares"] = "copy"
    temperature: float = Field(1.0, gt=0)
    warmup: float = Field(0.0, ge=0, le=1)
    until_epochs: float | None = Field(None, gt=0)

    def share_taught(self, epochs: float) -> float:
        """Return the share of a training over `epochs` in which the teacher is asked."""
        return 1.0 if self.until_epochs is None else min(1.0, self.until_epochs / epochs)

    def for_method(self, method: Method) -> "DistillSettings":
        """Return the settings of a comparison method: ours as it is, the classification term alone, or imitation alone.

        Imitation gets the weight of the paper that it comes from, 0.01, where none is set.
        """
        if method == "ours":
            return self
        alone = {"feature": 0.0, "classification": 0.0, "localization": 0.0, "imitation": 0.0}
        if method == "logit":
            return self.model_copy(update={**alone, "classification": self.classification or 1.0})
        return self.model_copy(update={**alone, "imitation": self.imitation or 0.01})
