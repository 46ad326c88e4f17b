"""A run folder as one self-contained HTML page."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

import yaml
from markupsafe import Markup

from jdnas.atomic import write_atomically
from jdnas.report import charts, stages, tiles
from jdnas.report.analysis import action_rows
from jdnas.report.generations import gains_over_generations
from jdnas.report.inputs import Json, RunData, as_dict, as_rows, finite, read_run, spec_or_none
from jdnas.report.page import embedded, render
from jdnas.spec import DetectorSpec
from jdnas.student.explain import explain

_CHARTS: dict[str, Callable[[RunData], Json | None]] = {
    "cost": charts.accuracy_against_cost,
    "history": charts.history,
    "actions": charts.action_gains,
    "generations": gains_over_generations,
    "capacity": charts.capacity,
    "parts": stages.parts_chart,
    "parts_ms": stages.latency_chart,
    "curves": charts.training_curves,
}


_SECTIONS = (
    ("tradeoff", "AP and cost"), ("history", "Search"), ("architecture", "Architecture"), ("examples", "Examples"), ("classes", "Classes"),
    ("deployment", "Deployment"), ("provenance", "Provenance"),
)  # fmt: skip


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Reads `summary.json` (a CheckpointError if it is missing or malformed) and, as far as they are there, `report_data.json` and the
    pictures that it names. The page loads nothing from anywhere.
    """
    run = read_run(run_dir)
    page = render("report.html.j2", _context(run, run_dir))
    path = run_dir / "report.html"
    write_atomically(path, page.encode())
    return path


def _context(run: RunData, run_dir: Path) -> dict[str, Any]:
    data, target = as_dict(run.summary.get("data")), as_dict(run.summary.get("target"))
    name = PurePath(str(data.get("name", "data"))).name
    figures = {name: make(run) for name, make in _CHARTS.items()}
    title = f"{name} on {target.get('name', 'target')}"
    return {
        "title": f"jdnas report: {title}",
        "kicker": "jdnas report",
        "heading": title,
        "sections": _SECTIONS,
        "verdict": tiles.verdict(run),
        "tiles": tiles.tiles(run),
        "sizes": {role: tiles.cell(run.model(role).get("size_hw")).replace(", ", "×") for role in tiles.ROLES if run.model(role)},
        "figures": {name: figure for name, figure in figures.items() if figure is not None},
        "cost_title": charts.cost_axis(run.cost_name)[0],
        "score_name": run.score_name,
        "search": _search_line(run),
        "action_rows": [_action_cells(row) for row in action_rows(run)],
        "architecture": _architecture(run),
        "parts_change": stages.parts_change(run),
        "parts_label": str(as_dict(run.extra.get("parts_ms")).get("label") or ""),
        "examples": _examples(run, run_dir),
        "per_class": tiles.per_class(run),
        "precisions": as_rows(run.model("student").get("precisions")),
        "parity": as_dict(run.extra.get("parity")) or as_dict(run.model("student").get("parity")),
        "benchmark": as_rows(run.extra.get("benchmark")),
        "data": data,
        "target": target,
        "fingerprints": _fingerprints(data),
        "requirements": _requirements(as_dict(run.summary.get("versions"))),
        "command": str(run.summary.get("command") or ""),
        "versions": as_dict(run.summary.get("versions")),
        "origin": {name: run.summary.get(name) for name in ("seed", "finished", "search")}
        | {"artifact": run.model("student").get("artifact")},
        "settings": _yaml(run.summary.get("settings")),
    }


def _search_line(run: RunData) -> str:
    """Return in one sentence what became of the candidates, or an empty string."""
    search = as_dict(run.summary.get("search"))
    tried = [c for c in run.candidates if c.parent is not None]
    count = {state: sum(c.state == state for c in tried) for state in ("evaluated", "refused", "stopped", "failed")}
    parts = [f"{count['evaluated'] or search.get('evaluated', 0)} candidates evaluated"]
    if "accepted" in search:
        parts.append(f"{search['accepted']} accepted into the list of parents")
    if count["refused"]:
        parts.append(f"{count['refused']} refused before training because they could not win")
    if count["stopped"]:
        parts.append(f"{count['stopped']} stopped after their first epochs")
    if count["failed"]:
        parts.append(f"{count['failed']} failed")
    seconds = finite(search.get("seconds"))
    minutes = "" if seconds is None else f", in {tiles.significant(seconds / 60, 2)} minutes"
    return f"{', '.join(parts)}{minutes}.{_saved_line(search)}{_score_line(run)}" if search or tried else ""


def _saved_line(search: Json) -> str:
    saved, spent = as_dict(search.get("images_saved")), finite(search.get("images")) or 0
    left = sum(value for value in (finite(value) for value in saved.values()) if value is not None)
    return f" Refusing and stopping saved {left:,.0f} training images, beside the {spent:,.0f} that were used." if left else ""


def _score_line(run: RunData) -> str:
    base, student = (finite(run.model(role).get("score")) for role in ("base", "student"))
    if base is None or student is None:
        return ""
    polish = as_dict(run.model("student").get("polish"))
    scores = [finite(as_dict(polish.get(name)).get("score")) for name in ("unpolished", "polished")]
    line = f" {'Score H' if run.score_name == 'H' else 'Score'} × 100: base {100 * base:.2f}, student {100 * student:.2f}."
    if scores[0] is None or scores[1] is None:
        return line
    return f"{line} Polishing for {polish.get('epochs')} epochs: {100 * scores[0]:.2f} before, {100 * scores[1]:.2f} after."


def _action_cells(row: Any) -> dict[str, str]:
    gains = {name: "–" if value is None else tiles.signed(f"{value:.2f}") for name, value in asdict(row).items() if name.endswith("_gain")}
    return {"action": row.action, "tried": str(row.tried), "evaluated": str(row.evaluated), "helped": str(row.helped), **gains}


def _architecture(run: RunData) -> dict[str, Any] | None:
    base, student = _spec(run, "base"), _spec(run, "student")
    if base is None or student is None:
        return None
    return {
        "words": explain(base, student),
        "rows": stages.stage_rows(base, student),
        "drawing": Markup(stages.stage_drawing(base, student)),
    }


def _spec(run: RunData, role: str) -> DetectorSpec | None:
    candidate = run.base if role == "base" else run.winner
    written = spec_or_none(run.model(role).get("spec"))
    return written if written is not None else candidate.student if candidate is not None else None


def _examples(run: RunData, run_dir: Path) -> list[dict[str, str]]:
    examples = []
    for row in as_rows(run.extra.get("examples")):
        path = (run_dir / str(row.get("file", ""))).resolve()
        if path.is_relative_to(run_dir.resolve()) and path.is_file():
            examples.append({"source": embedded(path), "caption": str(row.get("caption", ""))})
    return examples


def _fingerprints(data: Json) -> str:
    found = data.get("fingerprint")
    return f"train {found[0]}, val {found[1]}" if isinstance(found, list) and len(found) == 2 else ""


def _requirements(versions: Json) -> str:
    """Return what pip is to install for the versions of a run."""
    return " ".join(f"{name}=={version}" for name, version in versions.items() if name not in ("python", "platform"))


def _yaml(settings: object) -> str:
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) if settings else ""
