"""Settings of the search; each rule that the paper leaves open is one of them."""

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from jdnas.settings import Settings

BUDGETS = frozenset({"trials", "patience", "max_seconds", "max_failures", "polish_epochs", "database_wait_seconds"})


class SearchSettings(Settings):
    """How to search. Everything but the budgets (`BUDGETS`) decides the proposals and is fixed once a study has begun."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    seed: int = 0
    """Proposals and training seeds follow from it and the candidate's number."""

    trials: int = Field(default=100, ge=0)
    """Candidates to propose beyond the base. The paper searched 100 architectures (Table 7)."""

    patience: int = Field(default=25, ge=1)
    """Stop after so many candidates without a new best; the paper says "until convergence". About as many draws as it takes to try
    every parent of the list with every kind of action once. Refused candidates count, since none of them could have been a gain; failed
    ones do not."""

    max_seconds: float | None = Field(default=None, gt=0)
    """Start no candidate once the recorded candidates took so long together, over all runs of the study."""

    max_failures: int = Field(default=5, ge=1)
    """Give up after so many failed candidates in a row: one that runs out of memory is its own fault, five are the set-up's."""

    k: int = Field(default=5, ge=1)
    """Length of the list that parents are drawn from. The paper gives no figure; 5 survives a few noisy evaluations and still climbs."""

    alpha: float = Field(default=0.15, ge=0)
    """Weight of the cost in H. The paper gives none; with 0.15, half the cost is worth 11% more AP, which is the exchange that its
    Table 4 shows. For multiply-adds of the backbone alone, which shrink faster, use 0.07."""

    beta: float = 0.0
    """Exponent of the resolution in H. Zero because the cost is asked for at each resolution and knows it already; with a cost that
    ignores the size, as the paper's C(S), 2 charges a convolutional net in full for its pixels."""

    max_cost: float | None = Field(default=None, gt=0)
    """Look for the best AP within this cost instead of for H, in the unit of the cost function (`--max-latency-ms`)."""

    min_ap: float | None = Field(default=None, gt=0, lt=1)
    """Look for the cheapest detector with at least this AP instead of for H."""

    student_probability: float = Field(default=0.7, ge=0, le=1)
    """Chance that a candidate evolves the student; else the teacher. The paper only says "select": most of the gain comes from the
    student's actions (Fig. 6), and a teacher needs time to show."""

    parent_choice: Literal["uniform", "rank"] = "uniform"
    """How parents are drawn from the list: each alike, or in proportion to 1 / rank. The paper says "sample"; uniform, because the
    list is short and its order is within the noise of a three-epoch evaluation."""

    draws: int = Field(default=100, ge=1)
    """Draws of (parent, change) before the search counts as exhausted: a draw is lost when no change is legal or it was tried before."""

    refuse: bool = True
    """Refuse, before training, a candidate that could not enter the list even with an optimistic AP. False is the paper's algorithm."""

    optimistic_gain: float = Field(default=0.05, ge=0)
    """What the optimistic AP adds to the best AP so far at the same resolution. More than any single change brings once the base is
    trained."""

    stop_early: bool = True
    """Evaluate a candidate after its first epochs and train it no further when it began worse than most others did. False is the paper's
    algorithm. One look costs an evaluation per candidate, a stop saves the rest of its training."""

    rung_epochs: float = Field(default=1.0, gt=0)
    """When to look. One epoch of the paper's three: a third of the cost, and the learning rate has come down from its peak. A training
    that is no longer than this is never looked at."""

    stop_quantile: float = Field(default=0.25, gt=0, lt=1)
    """Stop a candidate that is among this share of the worst at its look, of all before it. Successive halving keeps half or a third; a
    quarter stops less, because a channel pruning begins low and still recovers."""

    stop_after: int = Field(default=8, ge=1)
    """Looks that must be on record before one of them stops a candidate, so that the quantile means something."""

    polish_epochs: float = Field(default=0.0, ge=0)
    """Train the student that leaves for so many epochs more, with the teacher of its pair. 0 is the paper's "no additional training". The
    better of both by its score is delivered, and both are reported."""

    database_wait_seconds: float = Field(default=600.0, ge=0)
    """How long to wait for a study database that does not answer before giving up; finished candidates are safe all the while."""

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if self.max_cost is not None and self.min_ap is not None:
            raise ValueError("set one of max_cost and min_ap, not both")
        return self

    def changed_rules(self, stored: dict[str, Any]) -> list[str]:
        """Name the settings that differ from stored ones and may not, because proposals follow from them."""
        own = self.model_dump(mode="json")
        return sorted(key for key in own.keys() | stored.keys() if key not in BUDGETS and own.get(key) != stored.get(key))
