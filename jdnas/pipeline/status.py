"""How far a run is, as plain data."""

from pathlib import Path
from typing import Any

from jdnas.config import resolve_kept
from jdnas.pipeline.run_folder import RunFolder
from jdnas.pipeline.speed import cost_name, cost_unit
from jdnas.pipeline.study_place import find_study
from jdnas.search.analyses import counts
from jdnas.search.history import Trial
from jdnas.search.objective import goal_of
from jdnas.search.study import SearchStudy
from jdnas.training.checkpoint import has_detector, read_json

Json = dict[str, Any]


def run_status(run: Path, top: int, study_url: str | None = None) -> Json:
    """Return the metrics of what is finished in a run folder (None for what is not), and the `top` best pairs of its search."""
    folder = RunFolder(run)
    return {
        "run_dir": str(run), "base": _metrics(folder.base, "metrics"), "pool": _metrics(folder.pool, "largest_metrics"),
        "control": _metrics(folder.control, "metrics"),
        "search": search_status(run, top, study_url) if folder.has_study else None,
        "summary": read_json(folder.summary) if folder.summary.is_file() else None,
    }  # fmt: skip


def _metrics(stem: Path, key: str) -> Json | None:
    return read_json(stem.with_suffix(".json"))["meta"].get(key) if has_detector(stem) else None


def search_status(run: Path, top: int, study_url: str | None = None) -> Json:
    """Return how far the search of a run is, and its best pairs; a CheckpointError says that there is no search."""
    folder = RunFolder(run)
    config = resolve_kept(folder.config_file, {}) if folder.config_file.is_file() else None
    place = find_study(folder, study_url or (None if config is None else config.study_url))
    with SearchStudy.load(place.url, name=place.name) as study:
        history, settings = study.history, study.settings
    rate = len(history) / history.seconds * 3600 if history.seconds else 0.0
    row, unit = counts(history, settings.k), "" if config is None else cost_unit(config)
    goal = goal_of(history.best(), settings) if history.complete else None
    return {
        "done": row["proposed"], "trials": settings.trials, "per_hour": rate,
        "hours_left": max(0, settings.trials - row["proposed"]) / rate if rate else None,
        "states": {state: row[state] for state in ("evaluated", "refused", "stopped", "failed")}, "without_gain": history.stale,
        "images": row["images"], "images_saved": row["images_saved"], "goal": None if goal is None else goal.to_dict(unit),
        "cost_name": "cost" if config is None else cost_name(config), "best": [_row(trial) for trial in history.top_k(top)],
    }  # fmt: skip


def _row(trial: Trial) -> Json:
    return {
        "number": trial.number, "parent": trial.parent, "change": trial.candidate.change, "ap": trial.ap, "size": str(trial.size),
        "cost": trial.cost, "score": trial.score,
    }  # fmt: skip
