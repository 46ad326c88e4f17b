"""Which kinds of change raised the score as the search went on (Joint-DetNAS, Fig. 6)."""

from html import escape
from typing import Any

from jdnas.report.inputs import RunData, as_rows, finite

_COLOURS = ("var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)")


def gains_over_generations(run: RunData) -> dict[str, Any] | None:
    """Return stacked bars: the gain in score times 100 that each kind of change brought in each generation; None where nothing helped.

    A generation is how often the best score had risen when a candidate was proposed.
    """
    gains: dict[str, dict[int, tuple[float, str]]] = {}
    for row in as_rows(run.extra.get("actions")):
        gain, generation = finite(row.get("gain")), row.get("generation")
        if gain and isinstance(generation, int):
            share = 100 * (finite(row.get("share")) or 0)
            text = f"{row.get('beneficial')} of {row.get('evaluated')} candidates helped, {share:.0f} % of those that did"
            gains.setdefault(str(row.get("change")), {})[generation] = (100 * gain, text)
    if not gains:
        return None
    bars = [
        {
            "type": "bar", "name": escape(change.replace("_", " ")), "x": list(own), "y": [gain for gain, _ in own.values()],
            "customdata": [text for _, text in own.values()], "marker": {"color": _COLOURS[index % len(_COLOURS)]},
            "hovertemplate": "generation %{x}: %{y:.2f}<br>%{customdata}<extra>%{fullData.name}</extra>",
        }
        for index, (change, own) in enumerate(sorted(gains.items()))
    ]  # fmt: skip
    gained = f"gain in {run.score_name} × 100"
    axes: dict[str, Any] = {"xaxis": {"title": {"text": "generation"}, "dtick": 1}, "yaxis": {"title": {"text": gained}}}
    return {"data": bars, "layout": {**axes, "barmode": "stack"}}
