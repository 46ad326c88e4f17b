"""What a study shows of itself in optuna-dashboard: its user attributes, one line each."""

from typing import Any

from jdnas.search.settings import SearchSettings
from jdnas.search.workshop import Candidate, SearchTask, size_key
from jdnas.spec import DetectorSpec


def in_words(spec: DetectorSpec) -> str:
    """Return an architecture in a line."""
    widths = "-".join(str(stage.width) for stage in spec.stages)
    return f"blocks {'-'.join(map(str, spec.depths))}, widths {widths}, neck {spec.neck}"


def shown_search(task: SearchTask, settings: SearchSettings) -> dict[str, Any]:
    """Return what is searched, and what the score is."""
    score = f"H = AP x (cost / base cost)^-{settings.alpha:g}"
    if settings.max_cost is not None:
        score = f"AP within cost {settings.max_cost:g}; negative: beyond it"
    elif settings.min_ap is not None:
        score = f"base cost / cost with AP {settings.min_ap:g} or more; negative: below it"
    sizes = ", ".join(map(size_key, task.sizes_hw))
    return {"score": score, "base": in_words(task.base), "sizes": sizes, "candidates": settings.trials, "seed": settings.seed}


def shown_proposal(candidate: Candidate) -> dict[str, Any]:
    """Return a proposal; values of an action that stand for "not used" (-1, 0.0) are left out."""
    action = {key: value for key, value in (candidate.action or {}).items() if key != "kind" and value != -1 and repr(value) != "0.0"}
    return {
        "change": candidate.change, "details": " ".join(f"{key}={value}" for key, value in action.items()), "parent": candidate.parent,
        "generation": candidate.generation, "teacher": in_words(candidate.teacher),
    }  # fmt: skip
