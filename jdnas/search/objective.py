"""The score of a student: H of the paper, or the best under a budget."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jdnas.errors import ConfigError
from jdnas.search.history import History, Trial
from jdnas.search.settings import SearchSettings
from jdnas.search.workshop import Cost, SearchTask, SizeHW, size_hw_from_key, size_key
from jdnas.spec import DetectorSpec

Mode = Literal["trade_off", "max_cost", "min_ap"]


@dataclass(frozen=True, slots=True)
class Objective:
    """Scores (AP, cost, resolution); higher is better, and a negative score means that a budget is missed.

    Trade-off: `H = AP * [(C / C_base) * (R / R_base)^beta]^-alpha` with R = sqrt(height * width) (Joint-DetNAS, 3.1.4). Under
    `max_cost` the score is the AP, under `min_ap` it is `C_base / C`; what misses the budget ranks below everything that meets it,
    by how much it misses.
    """

    base_cost: float
    base_size_hw: SizeHW
    alpha: float = 0.15
    beta: float = 0.0
    max_cost: float | None = None
    min_ap: float | None = None

    @property
    def mode(self) -> Mode:
        """What is looked for."""
        if self.max_cost is not None:
            return "max_cost"
        return "trade_off" if self.min_ap is None else "min_ap"

    def score(self, ap: float, cost: float, size_hw: SizeHW) -> float:
        """Return the score of one student at one resolution."""
        if self.max_cost is not None:
            return ap if cost <= self.max_cost else 1.0 - cost / self.max_cost
        if self.min_ap is not None:
            return self.base_cost / cost if ap >= self.min_ap else ap - self.min_ap
        resolution = math.sqrt(math.prod(size_hw) / math.prod(self.base_size_hw))
        return float(ap * (cost / self.base_cost * resolution**self.beta) ** -self.alpha)

    def best(self, aps: Mapping[str, float], costs: Mapping[str, float]) -> tuple[str, float]:
        """Return the resolution with the highest score and that score; both arguments are per `size_key`."""
        scores = {key: self.score(aps[key], cost, size_hw_from_key(key)) for key, cost in costs.items()}
        key = max(scores, key=scores.__getitem__)
        return key, scores[key]


def score_name(settings: SearchSettings) -> str:
    """Return what the score is called: H of the paper, or a mere score where the search has a budget."""
    return "H" if settings.max_cost is None and settings.min_ap is None else "score"


def objective_for(task: SearchTask, cost: Cost, settings: SearchSettings) -> Objective:
    """Return the objective whose base cost is that of the base at its resolution."""
    base = costs_of(task.base, task.sizes_hw, cost)[size_key(task.base_size_hw)]
    return Objective(base, task.base_size_hw, settings.alpha, settings.beta, settings.max_cost, settings.min_ap)


def costs_of(spec: DetectorSpec, sizes_hw: tuple[SizeHW, ...], cost: Cost) -> dict[str, float]:
    """Return the cost per resolution (`size_key`); a ConfigError says which one is not a positive number."""
    costs = {size_key(size): float(cost(spec, size)) for size in sizes_hw}
    for key, value in costs.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"the cost of architecture {spec.key} at {key} is {value}; it must be positive and finite")
    return costs


@dataclass(frozen=True, slots=True)
class Bar:
    """What a candidate must be able to reach to be worth training: the last score of the list, at optimistic APs per resolution."""

    score: float
    optimistic_aps: Mapping[str, float]

    def refusal(self, objective: Objective, costs: Mapping[str, float]) -> str | None:
        """Say why a candidate with these costs cannot enter the list; None when it can."""
        key, reachable = objective.best(self.optimistic_aps, costs)
        if reachable > self.score:
            return None
        hoped = f"AP {self.optimistic_aps[key]:.3f} at cost {costs[key]:.6g} ({key})"
        return f"even {hoped} would score only {reachable:.4f}, and the list starts at {self.score:.4f}"


def bar_of(history: History, settings: SearchSettings) -> Bar | None:
    """Return the bar that candidates proposed now must pass; None while the list has room or nothing is refused."""
    if not settings.refuse or (worst := history.score_at(settings.k)) is None:
        return None
    return Bar(worst, {size: min(1.0, ap + settings.optimistic_gain) for size, ap in history.best_aps.items()})


@dataclass(frozen=True, slots=True)
class Goal:
    """A budget, whether anything found meets it, and what comes closest: the best of those that do, or the one that misses by least."""

    mode: Mode
    limit: float
    met: bool
    candidate: int
    size: str
    ap: float
    cost: float

    def sentence(self, unit: str = "") -> str:
        """Say what was found; `unit` is that of the cost."""
        found = f"candidate {self.candidate} at {self.size}: cost {self.cost:.6g}{unit and ' ' + unit}, AP {self.ap:.3f}"
        if self.mode == "max_cost":
            limit = f"the cost limit {self.limit:.6g}{unit and ' ' + unit}"
            return f"the best within {limit} is {found}" if self.met else f"nothing meets {limit}: the fastest found was {found}"
        if self.met:
            return f"the cheapest with AP {self.limit:g} or more is {found}"
        return f"nothing reaches AP {self.limit:g}: the best found was {found}"

    def to_dict(self, unit: str = "") -> dict[str, Any]:
        """Return plain JSON data, with the sentence."""
        return {**asdict(self), "sentence": self.sentence(unit)}


def goal_of(best: Trial, settings: SearchSettings) -> Goal | None:
    """Return what became of the search's budget, given the best that there is; None for a search without one."""
    limit = settings.max_cost if settings.max_cost is not None else settings.min_ap
    if limit is None:
        return None
    if best.score is None or best.size is None or best.ap is None or best.cost is None:
        raise LookupError("the best candidate has no score")
    mode: Mode = "min_ap" if settings.max_cost is None else "max_cost"
    return Goal(mode, limit, best.score >= 0, best.number, best.size, best.ap, best.cost)
