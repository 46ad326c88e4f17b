"""What the report reads: `summary.json` and `report_data.json` of a run folder, as plain JSON."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jdnas.errors import CheckpointError, ConfigError
from jdnas.spec import DetectorSpec

Json = dict[str, Any]

_STATES = {
    "complete": "evaluated",
    "evaluated": "evaluated",
    "pruned": "refused",
    "refused": "refused",
    "stopped": "stopped",
    "fail": "failed",
    "failed": "failed",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One trial of the search.

    `action` is a kind of student action, "teacher" or "base"; `ap` is in [0, 1]; `cost` is in the unit of the search; `state` is
    evaluated, refused, stopped, failed or unfinished, and `reason` says why.
    """

    number: int
    parent: int | None
    action: str
    detail: str
    reason: str
    state: str
    ap: float | None
    cost: float | None
    score: float | None
    size_hw: tuple[int, int] | None
    in_lineage: bool
    student: DetectorSpec | None
    teacher: DetectorSpec | None

    @property
    def moves_teacher(self) -> bool:
        """True if this step changed the teacher and not the student."""
        return self.action == "teacher"


@dataclass(frozen=True, slots=True)
class RunData:
    """Everything the report shows, checked for the few things that the rest relies on."""

    summary: Json
    candidates: tuple[Candidate, ...]
    cost_name: str
    extra: Json = field(default_factory=dict)

    def model(self, role: str) -> Json:
        """Return the figures of "base", "control" or "student", or an empty dict."""
        return as_dict(self.summary.get(role))

    @property
    def score_name(self) -> str:
        """What the score is called: H of the paper, or a mere score where the search had a goal."""
        return "H" if as_dict(self.summary.get("search")).get("goal") is None else "score"

    @property
    def base(self) -> Candidate | None:
        """The candidate that the search started from."""
        return next((c for c in self.candidates if c.parent is None and c.state == "evaluated"), None)

    @property
    def winner(self) -> Candidate | None:
        """The candidate that became the student: the last of its own lineage."""
        lineage = [c for c in self.candidates if c.in_lineage and c.state == "evaluated"]
        return max(lineage, key=lambda c: c.number, default=None)

    @property
    def delivered(self) -> Candidate | None:
        """The winner with the figures that it left with, which a polish may have changed."""
        row = as_dict(self.extra.get("delivered"))
        return _candidate(row) if row else self.winner


def finite(value: object) -> float | None:
    """Return a number as float, and None for anything that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def as_dict(value: object) -> Json:
    """Return a JSON object as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_rows(value: object) -> list[Json]:
    """Return the objects of a JSON array."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def read_run(run_dir: Path) -> RunData:
    """Read a run folder; a CheckpointError says what is missing. `report_data.json` may be absent."""
    path = run_dir / "summary.json"
    if not path.is_file():
        raise CheckpointError(f"no summary.json in {run_dir}; finish that run first: jdnas optimize --run-dir {run_dir} --resume")
    summary = _read(path)
    extra_path = run_dir / "report_data.json"
    extra = _read(extra_path) if extra_path.is_file() else {}
    candidates = sorted((_candidate(row) for row in as_rows(extra.get("trials"))), key=lambda c: c.number)
    return RunData(summary, tuple(candidates), str(extra.get("cost_name", "cost")), extra)


def _read(path: Path) -> Json:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {_anew(path)}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a JSON {type(data).__name__}, expected an object; {_anew(path)}")
    return data


def _anew(path: Path) -> str:
    return f"write it anew with: jdnas optimize --run-dir {path.parent} --resume"


def _candidate(row: Json) -> Candidate:
    action = as_dict(row.get("action"))
    size = row.get("best_size")
    return Candidate(
        number=int(row.get("number", -1)),
        parent=row["parent"] if isinstance(row.get("parent"), int) else None,
        action=str(action.get("kind") or row.get("choice") or "base"),
        detail=_action_detail(action),
        reason=str(row.get("reason") or ""),
        state=_STATES.get(str(row.get("state", "")).lower(), "unfinished"),
        ap=finite(row.get("ap")),
        cost=finite(row.get("cost")),
        score=finite(row.get("score")),
        size_hw=(int(size[0]), int(size[1])) if isinstance(size, list) and len(size) == 2 else None,
        in_lineage=bool(row.get("lineage")),
        student=spec_or_none(row.get("student")),
        teacher=spec_or_none(row.get("teacher")),
    )


def spec_or_none(data: object) -> DetectorSpec | None:
    """Read a spec, and return None where there is none or this version cannot read it."""
    if not isinstance(data, dict):
        return None
    try:
        return DetectorSpec.from_dict(data)
    except ConfigError:
        return None


def _action_detail(action: Json) -> str:
    """Write the choices of an action in words: stages and blocks count from 1, -1 means that the choice was left open."""
    words = {"stage": "stage {}", "target": "to stage {}", "position": "block {}"}
    parts = [words[k].format(int(action[k]) + 1) for k in words if isinstance(action.get(k), int) and action[k] >= 0]
    ratio = finite(action.get("ratio"))
    return ", ".join([*parts, f"{100 * ratio:.0f} % of the channels"] if ratio else parts)
