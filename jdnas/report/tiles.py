"""Numbers for people: the headline, its tiles, and tables."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jdnas.report.inputs import Json, RunData, as_dict, as_rows, finite

MISSING = "–"
MEASURED = "measured"
_MOST_ITEMS = 20
ROLES = ("student", "base", "control")


@dataclass(frozen=True, slots=True)
class Metric:
    """A headline figure: how to read it from a model's entry, how to write it, and which direction is better (+1, -1)."""

    name: str
    unit: str
    read: Callable[[Json], float | None]
    digits: Callable[[float], str]
    better: int
    relative: bool
    help: str


@dataclass(frozen=True, slots=True)
class Row:
    """The base or the control beside the student: its value and how far the student is from it."""

    role: str
    value: str
    difference: str
    verdict: str
    spread: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure of the student with the others beside it."""

    name: str
    unit: str
    help: str
    value: str
    spread: str
    rows: tuple[Row, ...]


def significant(value: float, digits: int = 3) -> str:
    """Write a number with about `digits` significant digits and without an exponent."""
    if value == 0:
        return "0"
    decimals = 0
    while decimals < 6 and abs(value) * 10**decimals < 10 ** (digits - 1):
        decimals += 1
    return f"{value:,.{decimals}f}"


def percent_points(fraction: float) -> str:
    """Write a fraction as percent with one decimal, as detection papers do."""
    return f"{100 * fraction:.1f}"


def signed(text: str) -> str:
    """Add a sign to a written number, with a true minus."""
    return text.replace("-", "−") if text.startswith("-") else f"+{text}"


def _fps(model: Json) -> float | None:
    given = finite(model.get("fps"))
    if given is not None:
        return given
    latency_ms = finite(model.get("latency_ms"))
    return 1000 / latency_ms if latency_ms else None


def _reader(key: str) -> Callable[[Json], float | None]:
    return lambda model: finite(model.get(key))


METRICS = (
    Metric("AP", "", _reader("ap"), percent_points, +1, False, "COCO average precision over IoU 0.50 to 0.95, in percent"),
    Metric(
        "Latency",
        "ms",
        _reader("latency_ms"),
        significant,
        -1,
        True,
        "Median time of one batch on the target, normalized image in, final boxes out",
    ),
    Metric("FPS", "", _fps, significant, +1, True, "Images per second on the target: batch size / latency"),
    Metric("Parameters", "M", _reader("params_m"), significant, -1, True, "Millions of parameters"),
    Metric(
        "Multiply-adds", "G", _reader("flops_g"), significant, -1, True, "Billions of multiply-adds per image at the network's input size"
    ),
)


def tiles(run: RunData) -> list[Tile]:
    """Return the headline tiles; a figure that neither the base nor the student has is left out."""
    models = {role: run.model(role) for role in ROLES}
    shown = [m for m in METRICS if any(m.read(models[role]) is not None for role in ("student", "base"))]
    return [_tile(metric, models) for metric in shown]


def _tile(metric: Metric, models: dict[str, Json]) -> Tile:
    student = metric.read(models["student"])
    rows = [
        replace(_row(metric, role, metric.read(models[role]), student), spread=_spread(models[role], metric.name))
        for role in ROLES[1:]
        if models[role]
    ]
    value = MISSING if student is None else metric.digits(student)
    spread = _spread(models["student"], metric.name)
    return Tile(metric.name, metric.unit, metric.help, value, spread, tuple(rows))


def _row(metric: Metric, role: str, other: float | None, student: float | None) -> Row:
    if other is None:
        return Row(role, MISSING, "", "same")
    if student is None:
        return Row(role, metric.digits(other), "", "same")
    if metric.relative:
        change = f"{100 * (student - other) / other:.0f}" if other else "0"
        text = f"{signed(change)} %"
    else:
        change = metric.digits(student - other)
        text = signed(change)
    if float(change) == 0:
        return Row(role, metric.digits(other), "±0", "same")
    return Row(role, metric.digits(other), text, "good" if float(change) * metric.better > 0 else "bad")


def predicted_from(model: Json) -> str:
    """Return what a latency that was not measured rests on, or an empty string."""
    label = str(model.get("latency_label") or MEASURED)
    return "" if label == MEASURED else label


def _spread(model: Json, metric: str) -> str:
    if metric not in ("Latency", "FPS"):
        return ""
    if label := predicted_from(model):
        return f"{label}, not measured"
    if metric == "FPS":
        return ""
    spread = model.get("latency_spread_ms")
    low, high = (finite(value) for value in spread) if isinstance(spread, list) and len(spread) == 2 else (None, None)
    return "" if low is None or high is None else f"p5–p95: {significant(low)}–{significant(high)}"


def verdict(run: RunData) -> list[str]:
    """Return the outcome of the run in one to three plain sentences."""
    base, control, student = (run.model(role) for role in ("base", "control", "student"))
    if not student:
        return ["This run has no student yet."]
    ap_student, ap_base, ap_control = (finite(m.get("ap")) for m in (student, base, control))
    sentences = []
    if ap_student is not None and ap_base is not None:
        sentences.append(f"The student reaches AP {percent_points(ap_student)}; the base it started from, {percent_points(ap_base)}.")
    if ap_student is not None and ap_control is not None:
        gap = 100 * (ap_student - ap_control)
        where = "level with" if abs(gap) < 0.05 else f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"
        sentences.append(f"That is {where} the control, the base trained for as many extra images (AP {percent_points(ap_control)}).")
    else:
        sentences.append("There is no control: how much of the difference comes from longer training is not known.")
    target = as_dict(run.summary.get("target"))
    interval = _interval(as_dict(target.get("comparison")))
    sentences += _speed(finite(student.get("latency_ms")), finite(base.get("latency_ms")), predicted_from(student), compared=bool(interval))
    return [*sentences, *interval, *_disturbed(target.get("disturbances"))]


def _disturbed(what: object) -> list[str]:
    found = [str(one) for one in what] if isinstance(what, list) else []
    return [f"The measurement was disturbed: {'; '.join(found)}. Measure again on a quiet machine before relying on it."] if found else []


def _interval(comparison: Json) -> list[str]:
    """Say how sure the ratio of the latencies is, where base and student were measured in turns."""
    ratio, low, high = (finite(comparison.get(name)) for name in ("ratio", "low", "high"))
    if ratio is None or low is None or high is None:
        return []
    text = f"Measured in turns, the student's latency is {ratio:.2f} of the base's (95 % interval {low:.2f} to {high:.2f})"
    return [f"{text}, which these runs cannot tell from 1." if low <= 1 <= high else f"{text}: more than noise."]


def _speed(student_ms: float | None, base_ms: float | None, predicted: str, *, compared: bool) -> list[str]:
    """Say both latencies, and their ratio where no comparison in turns gives a better one."""
    if not student_ms or not base_ms:
        return []
    ratio = base_ms / student_ms
    how = f" ({predicted}; measured on nothing here)" if predicted else ""
    times = f"On the target it takes {significant(student_ms)} ms and the base {significant(base_ms)} ms{how}"
    if compared:
        return [f"{times}."]
    if abs(ratio - 1) < 0.005:
        return [f"{times}: no difference in speed."]
    return [f"{times}: {ratio:.2f} times as fast." if ratio > 1 else f"{times}: {100 * (1 / ratio - 1):.0f} % slower."]


def flat(data: Json, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested JSON as pairs of a readable name and a readable value; arrays of objects, which are tables, are left out."""
    pairs: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, dict) and value:
            pairs += flat(value, f"{name}: ")
        elif not as_rows(value):
            pairs.append((name, cell(value)))
    return pairs


def cell(value: Any) -> str:
    """Write one JSON value for a table."""
    if value is None or value == {}:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        small = value != 0 and abs(value) < 1e-3
        return f"{value:.2g}" if small else significant(value)
    if isinstance(value, list):
        shown = ", ".join(cell(item) for item in value[:_MOST_ITEMS])
        return f"{shown}, … ({len(value)} in all)" if len(value) > _MOST_ITEMS else shown or MISSING
    return str(value)


def table(rows: list[Json]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of a list of objects; columns come in the order of first sight, empty ones are dropped."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns = [c for c in columns if any(row.get(c) is not None for row in rows)]
    return [c.replace("_", " ") for c in columns], [[cell(row.get(c)) for c in columns] for row in rows]


def per_class(run: RunData) -> list[dict[str, Any]]:
    """Return one row per class with the AP of each model as text and as a share in percent, best student class first."""
    data = as_dict(run.extra.get("per_class"))
    models = {role: as_dict(data.get(role)) for role in ROLES}
    names = dict.fromkeys(name for role in ROLES for name in models[role])
    rows = []
    for name in names:
        values = {role: finite(models[role].get(name)) for role in ROLES}
        cells = {role: (MISSING, 0.0) if v is None else (percent_points(v), round(max(0.0, 100 * v), 1)) for role, v in values.items()}
        student, base = values["student"], values["base"]
        change = "" if student is None or base is None else signed(percent_points(student - base))
        rows.append({"name": name, "cells": cells, "change": change, "rank": -1.0 if student is None else student})
    return sorted(rows, key=lambda row: -float(row["rank"]))
