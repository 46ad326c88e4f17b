"""The rung after a candidate's first epochs: one that begins worse than most others did is not trained to its end.

One rung of successive halving (Jamieson and Talwalkar 2016) as a percentile rule over the recorded history, like Optuna's
PercentilePruner; a pure function of history and settings, so that a search that is run again stops the same candidates.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jdnas.search.history import History
from jdnas.search.objective import Objective
from jdnas.search.settings import SearchSettings


@dataclass(frozen=True, slots=True)
class Rung:
    """What candidates that are begun now are asked after `epochs` epochs; without a threshold their score is only recorded."""

    epochs: float
    threshold: float | None = None

    def of(self, objective: Objective, costs: Mapping[str, float]) -> "RungOf":
        """Return what one candidate is asked, which costs this much per resolution (`size_key`)."""
        return RungOf(self.epochs, self.threshold, objective, costs)


@dataclass(frozen=True, slots=True)
class RungOf:
    """The rung of one candidate (a `jdnas.search.workshop.EarlyLook`)."""

    epochs: float
    threshold: float | None
    objective: Objective
    costs: Mapping[str, float]

    def score(self, aps: Mapping[str, float]) -> float:
        """Return the score of the best resolution."""
        return self.objective.best(aps, self.costs)[1]

    def verdict(self, aps: Mapping[str, float]) -> str | None:
        """Say why a candidate with these APs (per `size_key`) is to be stopped; None when it goes on."""
        reached = self.score(aps)
        if self.threshold is None or reached >= self.threshold:
            return None
        return f"score {reached:.4f} after {self.epochs:g} epochs, where most candidates before it reached {self.threshold:.4f}"


def rung_of(history: History, settings: SearchSettings) -> Rung | None:
    """Return the rung of candidates that are begun now; None where none is stopped."""
    return Rung(settings.rung_epochs, threshold_of(history, settings)) if settings.stop_early else None


def threshold_of(history: History, settings: SearchSettings) -> float | None:
    """Return the score that the share `stop_quantile` of all candidates before stayed below at the rung; None while they are few."""
    scores = history.rung_scores
    if len(scores) < settings.stop_after:
        return None
    return scores[math.floor(settings.stop_quantile * len(scores))]
