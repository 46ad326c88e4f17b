"""Several runs on one self-contained page."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any

from jdnas.atomic import write_atomically
from jdnas.errors import ConfigError
from jdnas.report.inputs import Json, RunData, as_dict, finite, read_run
from jdnas.report.page import render
from jdnas.report.tiles import MISSING, cell, flat, percent_points, predicted_from, signed, significant

COLOURS = ("var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)")
_SYMBOLS = {"base": "circle", "control": "diamond", "student": "star"}
_SECTIONS = (
    ("results", "Results"),
    ("tradeoff", "AP and latency"),
    ("search", "Search"),
    ("classes", "Classes"),
    ("differences", "Differences"),
)
_HEADINGS = (
    "run", "base AP", "control AP", "student AP", "student − control", "base ms", "student ms", "p5–p95", "times as fast", "GMAC",
    "M parameters", "seed", "target",
)  # fmt: skip
_PLACE_SETTINGS = ("seed",)
Named = tuple[str, RunData]


def write_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write a page that compares finished runs, and return its path; a CheckpointError names a run that is not finished."""
    if len({path.resolve() for path in run_dirs}) < len(run_dirs):
        raise ConfigError("a run is named twice; give different run folders to compare")
    runs = list(zip(_labels(run_dirs), map(read_run, run_dirs), strict=True))
    write_atomically(out, render("compare.html.j2", _context(runs)).encode())
    return out


def _labels(paths: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many parents as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(one) for one in parts]


def _context(runs: list[Named]) -> dict[str, Any]:
    figures = {"cost": _tradeoff(runs), "history": _search(runs), "classes": _classes(runs)}
    return {
        "title": f"jdnas comparison: {', '.join(name for name, _ in runs)}", "kicker": "jdnas comparison",
        "heading": " · ".join(name for name, _ in runs), "verdict": verdict(runs), "sections": _SECTIONS,
        "figures": {name: figure for name, figure in figures.items() if figure is not None},
        "results": (_HEADINGS, [_row(name, run) for name, run in runs]), "seeds": seed_groups(runs),
        "settings": _differing(runs, "settings"), "provenance": _differing(runs, "data", "target", "versions"),
    }  # fmt: skip


def _number(value: object, write: Any = significant) -> str:
    known = finite(value)
    return MISSING if known is None else str(write(known))


def _row(name: str, run: RunData) -> list[str]:
    base, control, student = (run.model(role) for role in ("base", "control", "student"))
    gap = (finite(student.get("ap")), finite(control.get("ap")))
    difference = MISSING if None in gap else signed(percent_points((gap[0] or 0.0) - (gap[1] or 0.0)))
    spread = student.get("latency_spread_ms")
    low_high = "–".join(_number(value) for value in spread) if isinstance(spread, list) else MISSING
    before, after = finite(base.get("latency_ms")), finite(student.get("latency_ms"))
    label = f" ({rests_on})" if (rests_on := predicted_from(student)) else ""
    aps = (_number(model.get("ap"), percent_points) for model in (base, control, student))
    faster = f"{before / after:.2f}" if before and after else MISSING
    return [
        name, *aps, difference, _number(before) + label, _number(after) + label, low_high, faster, _number(student.get("flops_g")),
        _number(student.get("params_m")), cell(run.summary.get("seed")), str(as_dict(run.summary.get("target")).get("name", MISSING)),
    ]  # fmt: skip


def verdict(runs: list[Named]) -> list[str]:
    """Return what can be said of the runs together in plain sentences, and what keeps them from being compared."""
    students = [(name, run.model("student")) for name, run in runs]
    aps = [(ap, name) for name, one in students if (ap := finite(one.get("ap"))) is not None]
    speeds = [(ms, name) for name, one in students if (ms := finite(one.get("latency_ms"))) is not None]
    sentences = []
    if aps:
        best = max(aps, key=lambda pair: pair[0])
        sentences.append(f"The highest AP of a student is {percent_points(best[0])} ({best[1]}).")
    if speeds:
        fastest = min(speeds, key=lambda pair: pair[0])
        sentences.append(f"The fastest student takes {significant(fastest[0])} ms ({fastest[1]}).")
    data = {cell(as_dict(run.summary.get("data")).get("fingerprint")) for _, run in runs}
    targets = {cell(as_dict(run.summary.get("target")).get("name")) for _, run in runs}
    if len(data) > 1:
        sentences.append("The runs were evaluated on different data, so their APs cannot be compared.")
    if len(targets) > 1:
        sentences.append("They are for different targets, so their latencies cannot be compared.")
    elif all(predicted_from(one) for _, one in students):
        sentences.append("Latencies are predicted, not measured.")
    elif speeds:
        sentences.append("Latencies of different runs were measured at different times; measure two engines in turns to compare them: "
                         "jdnas latency benchmark --compare A B.")  # fmt: skip
    return sentences


def seed_groups(runs: list[Named]) -> list[list[str]]:
    """Return rows of means and ranges over runs whose settings differ in the seed alone; runs that stand alone have no row."""
    groups: dict[str, list[Named]] = {}
    for name, run in runs:
        settings = {key: value for key, value in as_dict(run.summary.get("settings")).items() if key not in _PLACE_SETTINGS}
        where = [as_dict(run.summary.get("data")).get("fingerprint"), as_dict(run.summary.get("target")).get("name")]
        groups.setdefault(repr((sorted(settings.items()), where)), []).append((name, run))
    return [_spread(members) for members in groups.values() if len(members) > 1]


def _spread(members: list[Named]) -> list[str]:
    def over(role: str, key: str, write: Any) -> str:
        values = [value for _, run in members if (value := finite(run.model(role).get(key))) is not None]
        return f"{write(mean(values))} ({write(min(values))}–{write(max(values))})" if values else MISSING

    aps = [over(role, "ap", percent_points) for role in ("base", "control", "student")]
    return [", ".join(name for name, _ in members), *aps, over("student", "latency_ms", significant)]


def _tradeoff(runs: list[Named]) -> Json | None:
    traces = []
    for index, (name, run) in enumerate(runs):
        points = [(role, finite(run.model(role).get("latency_ms")), finite(run.model(role).get("ap"))) for role in _SYMBOLS]
        known = [(role, ms, 100 * ap) for role, ms, ap in points if ms is not None and ap is not None]
        if not known:
            continue
        colour = COLOURS[index % len(COLOURS)]
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": escape(name),
            "x": [ms for _, ms, _ in known], "y": [ap for _, _, ap in known],
            "customdata": [f"<b>{escape(name)}</b><br>{role}<br>AP {ap:.2f}<br>{significant(ms)} ms" for role, ms, ap in known],
            "hovertemplate": "%{customdata}<extra></extra>", "line": {"color": colour, "width": 1, "dash": "dot"},
            "marker": {"color": colour, "size": 13, "symbol": [_SYMBOLS[role] for role, _, _ in known]},
        })  # fmt: skip
    layout = {"xaxis": {"title": {"text": "latency (ms)"}}, "yaxis": {"title": {"text": "AP"}}}
    return {"data": traces, "layout": layout} if traces else None


def _search(runs: list[Named]) -> Json | None:
    traces = []
    for index, (name, run) in enumerate(runs):
        best, numbers, highest = [], [], float("-inf")
        for candidate in run.candidates:
            if candidate.score is not None:
                highest = max(highest, 100 * candidate.score)
                best.append(highest)
                numbers.append(candidate.number)
        if len(best) > 1:
            traces.append({
                "type": "scatter", "mode": "lines", "name": escape(name), "x": numbers, "y": best,
                "hovertemplate": f"{escape(name)}, candidate %{{x}}: %{{y:.2f}}<extra></extra>",
                "line": {"color": COLOURS[index % len(COLOURS)], "shape": "hv", "width": 1.75},
            })  # fmt: skip
    layout = {"xaxis": {"title": {"text": "candidate"}}, "yaxis": {"title": {"text": "best score × 100 so far"}}}
    return {"data": traces, "layout": layout} if traces else None


def _classes(runs: list[Named]) -> Json | None:
    found = {name: as_dict(as_dict(run.extra.get("per_class")).get("student")) for name, run in runs}
    classes = list(dict.fromkeys(label for aps in found.values() for label in aps))
    traces = [
        {
            "type": "bar", "name": escape(name), "x": [escape(label) for label in classes],
            "marker": {"color": COLOURS[index % len(COLOURS)]},
            "y": [None if (ap := finite(aps.get(label))) is None else 100 * ap for label in classes],
            "hovertemplate": f"{escape(name)}, %{{x}}: %{{y:.1f}}<extra></extra>",
        }
        for index, (name, aps) in enumerate(found.items())
        if aps
    ]  # fmt: skip
    layout = {"xaxis": {"type": "category", "showgrid": False}, "yaxis": {"title": {"text": "AP of the student"}, "rangemode": "tozero"},
              "barmode": "group", "bargap": 0.25}  # fmt: skip
    return {"data": traces, "layout": layout} if traces else None


def _differing(runs: list[Named], *keys: str) -> tuple[list[str], list[list[str]]] | None:
    """Return the table of what differs between the runs in these parts of their summaries; None where nothing does."""
    parts = [{key: as_dict(run.summary.get(key)) for key in keys} for _, run in runs]
    found = [dict(flat(one[keys[0]] if len(keys) == 1 else one)) for one in parts]
    names = dict.fromkeys(name for one in found for name in one)
    rows = [[name, *(one.get(name, MISSING) for one in found)] for name in names if len({one.get(name) for one in found}) > 1]
    return (["", *(name for name, _ in runs)], rows) if rows else None
