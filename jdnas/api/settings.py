"""From what a caller names to the settings of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdnas.config import DEFAULT_PRESET, RunConfig, merge, resolve, resolve_kept, scheduled
from jdnas.durations import seconds_from_text

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Goals:
    """Short forms of settings of the search: its end, and what to look for instead of H; `budget` is in seconds or text such as 2h."""

    trials: int | None = None
    max_latency_ms: float | None = None
    min_ap: float | None = None
    budget: str | float | None = None
    patience: int | None = None
    polish_epochs: float | None = None

    def settings(self) -> dict[str, Any]:
        """Return them as nested settings; a limit of the latency makes the latency the search's cost."""
        seconds = seconds_from_text(self.budget) if isinstance(self.budget, str) else self.budget
        wanted = {
            "trials": self.trials, "max_cost": self.max_latency_ms, "min_ap": self.min_ap, "max_seconds": seconds,
            "patience": self.patience, "polish_epochs": self.polish_epochs,
        }  # fmt: skip
        search = {key: value for key, value in wanted.items() if value is not None}
        return ({"search": search} if search else {}) | ({} if self.max_latency_ms is None else {"cost": "latency"})


def nested(settings: Settings) -> dict[str, Any]:
    """Return settings whose names may have dots, such as {"search.trials": 20}, as nested ones; later ones win."""
    result: dict[str, Any] = {}
    for name, value in settings.items():
        inner: Any = nested(value) if isinstance(value, Mapping) else value
        for key in reversed(str(name).split(".")):
            inner = {key: inner}
        result = merge(result, inner)
    return result


def run_config(
    given: Settings, *, preset: str | Path | None = None, settings: Settings | None = None, resumed: Path | None = None,
    schedule: str | None = None, goals: Goals = Goals(),
) -> RunConfig:  # fmt: skip
    """Resolve settings: those of the preset, over them a schedule's, `settings`, `goals`, and what of `given` is not None.

    Without a preset, the settings of the run in the folder `resumed` come first, if there is one. A ConfigError names what is wrong.
    """
    named = {name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value is not None}
    chosen = merge(merge(scheduled(schedule), nested(settings or {})), merge(goals.settings(), named))
    if preset is None and resumed is not None and (resumed / "config.yaml").is_file():
        return resolve_kept(resumed / "config.yaml", chosen)
    return resolve(str(preset or DEFAULT_PRESET), chosen)
