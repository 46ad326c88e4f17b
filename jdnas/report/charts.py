"""Charts as Plotly figures in plain data.

A colour is written `var(--name)` and looked up in the page's style sheet when a chart is drawn, so one definition serves
both themes.
"""

from collections.abc import Callable
from html import escape
from typing import Any

from jdnas.report.analysis import gains_by_action, pareto_front
from jdnas.report.inputs import Candidate, RunData, as_dict, as_rows, finite
from jdnas.report.tiles import significant
from jdnas.spec import DetectorSpec
from jdnas.student.explain import width_range

Figure = dict[str, Any]
Place = Callable[[list[Candidate]], tuple[list[float], list[float]]]

_HOVER = "%{customdata}<extra></extra>"
_ACTION_COLOURS = ("var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)")
_SMALL = {"size": 12, "color": "var(--muted)"}
_MAX_POINTS, _MOST_TICKS = 400, 12


def cost_axis(cost_name: str) -> tuple[str, float]:
    """Return the title of the cost axis and the factor from the search's unit to the shown one."""
    if cost_name == "multiply_adds":
        return "multiply-adds (G)", 1e-9
    if cost_name.startswith("latency_ms"):
        return cost_name.replace("latency_ms", "latency (ms)", 1), 1.0
    return cost_name.replace("_", " "), 1.0


def readable(name: str) -> str:
    """Return an identifier as words."""
    return name.replace("_", " ")


def hover(candidate: Candidate, cost_name: str) -> str:
    """Return the hover text of a candidate; names from outside are escaped."""
    title, factor = cost_axis(cost_name)
    lines = [f"<b>candidate {candidate.number}</b>", escape(readable(candidate.action))]
    if candidate.detail:
        lines.append(escape(candidate.detail))
    if candidate.reason:
        lines.append(escape(f"{candidate.state}: {candidate.reason[:120]}"))
    if candidate.parent is not None:
        lines.append(f"from candidate {candidate.parent}")
    if candidate.ap is not None:
        at = f" at {candidate.size_hw[0]}×{candidate.size_hw[1]}" if candidate.size_hw else ""
        lines.append(f"AP {100 * candidate.ap:.2f}{at}")
    if candidate.cost is not None:
        lines.append(f"{escape(title)}: {significant(candidate.cost * factor, 4)}")
    if candidate.score is not None:
        lines.append(f"score {100 * candidate.score:.2f}")
    for role, spec in (("student", candidate.student), ("teacher", candidate.teacher)):
        if spec is not None:
            lines += [f"{role}: {_depths(spec)}", f"  {_widths(spec)}"]
    return "<br>".join(lines)


def _depths(spec: DetectorSpec) -> str:
    return f"depths {'-'.join(map(str, spec.depths))}"


def _widths(spec: DetectorSpec) -> str:
    return f"widths {' / '.join(width_range(stage.inner) for stage in spec.stages)}, neck {spec.neck}"


def _dots(name: str, points: list[Candidate], x: list[float], y: list[float], cost_name: str, marker: Figure) -> Figure:
    texts = [hover(c, cost_name) for c in points]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": x,
        "y": y,
        "customdata": texts,
        "hovertemplate": _HOVER,
        "marker": marker,
    }


def _line(name: str, x: list[float], y: list[float], colour: str, **line: Any) -> Figure:
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "hoverinfo": "skip", "line": {"color": colour, **line}}


def _layout(x_title: str, y_title: str, **more: Any) -> Figure:
    return {"xaxis": {"title": {"text": x_title}}, "yaxis": {"title": {"text": y_title}}, **more}


def _by_candidate(run: RunData, y_title: str) -> Figure:
    layout = _layout("candidate", y_title)
    layout["xaxis"].update(dtick=max(1, -(-len(run.candidates) // _MOST_TICKS)))  # candidates are whole
    return layout


def accuracy_against_cost(run: RunData) -> Figure | None:
    """AP against cost: every evaluated candidate, the Pareto front, the student's lineage, base, student and control."""
    title, factor = cost_axis(run.cost_name)
    points = [c for c in run.candidates if c.state == "evaluated" and c.ap is not None and c.cost is not None]
    if len(points) < 2:
        return None

    def place(cs: list[Candidate]) -> tuple[list[float], list[float]]:
        return [(c.cost or 0.0) * factor for c in cs], [100 * (c.ap or 0.0) for c in cs]

    roles = [(c, role, symbol) for c, role, symbol in _roles(run) if c.ap is not None and c.cost is not None]
    others = [c for c in points if c not in [named for named, *_ in roles]]
    front = pareto_front(list(zip(*place(points), strict=True)))
    traces = [_line("Pareto front", [p[0] for p in front], [p[1] for p in front], "var(--muted)", shape="hv", width=1.25, dash="dot")]
    lineage = [c for c in points if c.in_lineage]
    if len(lineage) > 1:
        traces.append(_line("lineage", *place(lineage), "var(--student)", width=1) | {"opacity": 0.6})
    if others:
        traces.append(
            _dots(
                "candidate",
                others,
                *place(others),
                run.cost_name,
                {"size": 8, "color": "var(--dot)", "line": {"width": 1, "color": "var(--card)"}},
            )
        )
    traces += [_named(c, role, symbol, run.cost_name, place) for c, role, symbol in roles]
    control, cost = finite(run.model("control").get("ap")), finite(run.extra.get("control_cost"))
    if cost is None and run.base is not None:
        cost = run.base.cost
    if control is not None and cost is not None:
        traces.append(_control(cost * factor, 100 * control))
    return {"data": traces, "layout": _layout(title, "AP")}


def _roles(run: RunData) -> list[tuple[Candidate, str, str]]:
    found = [] if run.base is None else [(run.base, "base", "circle")]
    if run.delivered is not None and run.delivered != run.base:
        found.append((run.delivered, "student", "star"))
    return found


def _named(candidate: Candidate, role: str, symbol: str, cost_name: str, place: Place) -> Figure:
    size = 17 if symbol == "star" else 12
    marker = {"size": size, "symbol": symbol, "color": f"var(--{role})", "line": {"width": 1.5, "color": "var(--card)"}}
    return _dots(role, [candidate], *place([candidate]), cost_name, marker)


def _control(cost: float, ap: float) -> Figure:
    marker = {"size": 12, "symbol": "diamond", "color": "var(--control)", "line": {"width": 1.5, "color": "var(--card)"}}
    text = f"<b>control</b><br>the base, trained on as many more images<br>AP {ap:.2f}"
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "control",
        "x": [cost],
        "y": [ap],
        "customdata": [text],
        "hovertemplate": _HOVER,
        "marker": marker,
    }


def history(run: RunData) -> Figure | None:
    """Score over candidate number, the best so far, and what was refused, stopped or failed."""
    scored = [c for c in run.candidates if c.state == "evaluated" and c.score is not None]
    if len(scored) < 2:
        return None
    best, highest = [], -float("inf")
    for c in scored:
        highest = max(highest, 100 * (c.score or 0.0))
        best.append(highest)
    traces = [_line("best so far", [float(c.number) for c in scored], best, "var(--student)", shape="hv", width=1.75)]
    moves = (("student step", "var(--student)", False), ("teacher step", "var(--teacher)", True))
    for name, colour, teacher in moves:
        chosen = [c for c in scored if c.moves_teacher == teacher]
        if chosen:
            marker = {"size": 8, "color": colour, "line": {"width": 1, "color": "var(--card)"}}
            traces.append(
                _dots(name, chosen, [float(c.number) for c in chosen], [100 * (c.score or 0.0) for c in chosen], run.cost_name, marker)
            )
    values = [100 * (c.score or 0.0) for c in scored]
    floor = min(values) - 0.12 * ((max(values) - min(values)) or 1.0)
    for state, symbol in (("refused", "line-ns-open"), ("stopped", "triangle-down-open"), ("failed", "x-thin-open")):
        missed = [c for c in run.candidates if c.state == state]
        if missed:
            marker = {"size": 9, "symbol": symbol, "color": "var(--bad)" if state == "failed" else "var(--muted)", "line": {"width": 1.5}}
            traces.append(_dots(state, missed, [float(c.number) for c in missed], [floor] * len(missed), run.cost_name, marker))
    return {"data": traces, "layout": _by_candidate(run, f"{run.score_name} × 100")}


def action_gains(run: RunData) -> Figure | None:
    """Gain in score over the parent, candidate by candidate, coloured by action."""
    gains = gains_by_action(run)
    if not gains:
        return None
    traces = []
    for index, (action, pairs) in enumerate(gains.items()):
        marker = {"size": 9, "color": _ACTION_COLOURS[index % len(_ACTION_COLOURS)], "line": {"width": 1, "color": "var(--card)"}}
        x, y = [float(c.number) for c, _ in pairs], [gain for _, gain in pairs]
        traces.append(_dots(escape(readable(action)), [c for c, _ in pairs], x, y, run.cost_name, marker))
    layout = _by_candidate(run, f"gain in {run.score_name} × 100 over its parent")
    layout["yaxis"].update(zeroline=True)
    return {"data": traces, "layout": layout}


def capacity(run: RunData) -> Figure | None:
    """Backbone parameters of the teacher against those of the student it taught, coloured by score (Joint-DetNAS, Fig. 5)."""
    by_number = {c.number: c for c in run.candidates}
    points: list[tuple[float, float, float, Candidate]] = []
    for row in as_rows(run.extra.get("teacher_capacity")):
        student, teacher = finite(row.get("student")), finite(row.get("teacher"))
        candidate = by_number.get(row.get("number", -1))
        if student is not None and teacher is not None and candidate is not None and candidate.score is not None:
            points.append((student * 1e-6, teacher * 1e-6, 100 * candidate.score, candidate))
    if len(points) < 2:
        return None
    marker = {
        "size": 11,
        "color": [p[2] for p in points],
        "colorscale": [[0, "var(--low)"], [1, "var(--high)"]],
        "colorbar": {
            "title": {"text": f"{run.score_name} × 100", "font": _SMALL},
            "tickfont": _SMALL,
            "thickness": 10,
            "outlinewidth": 0,
            "len": 0.9,
        },
        "line": {"width": 1, "color": "var(--card)"},
    }
    dots = _dots("candidate", [p[3] for p in points], [p[0] for p in points], [p[1] for p in points], run.cost_name, marker)
    return {
        "data": [{**dots, "showlegend": False}],
        "layout": _layout("student backbone (M parameters)", "teacher backbone (M parameters)"),
    }


def training_curves(run: RunData) -> Figure | None:
    """Training loss of the base and of the teacher pool over steps, thinned to some hundred points each."""
    traces = []
    for name, colour in (("base", "var(--base)"), ("control", "var(--control)"), ("pool", "var(--teacher)"), ("student", "var(--student)")):
        points = as_dict(run.extra.get("curves")).get(name) or []
        pairs = [(finite(p[0]), finite(p[1])) for p in points if isinstance(p, list) and len(p) >= 2]
        known = [(step, loss) for step, loss in pairs if step is not None and loss is not None]
        known = known[:: max(1, len(known) // _MAX_POINTS)]
        if len(known) > 1:
            line = _line(name, [p[0] for p in known], [p[1] for p in known], colour, width=1.5)
            traces.append({**line, "hoverinfo": "all", "hovertemplate": f"{name}, step %{{x}}: %{{y:.3f}}<extra></extra>"})
    return {"data": traces, "layout": _layout("step", "loss", hovermode="x")} if traces else None
