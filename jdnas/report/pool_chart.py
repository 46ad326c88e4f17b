"""The chart of a pool's quality: AP against multiply-adds, a colour per phase, hollow before recalibration and filled after it."""

from collections.abc import Sequence
from typing import Any, Protocol

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7")


class Row(Protocol):
    """One evaluated subnet."""

    @property
    def phase(self) -> int:
        """Index of the phase."""

    @property
    def subnet(self) -> str:
        """Name of the subnet."""

    @property
    def role(self) -> str:
        """Largest, smallest, sample, or the name that it was asked for by."""

    @property
    def gmac(self) -> float:
        """Multiply-adds in billions."""

    @property
    def ap_before(self) -> float:
        """AP before recalibration."""

    @property
    def ap_after(self) -> float:
        """AP after recalibration."""


def pool_figure(rows: Sequence[Row], *, size_hw: tuple[int, int], base_ap: float | None) -> dict[str, Any]:
    """Return a Plotly figure as plain data; a dotted line marks the AP of the base that the pool grew from."""
    traces = []
    for phase in sorted({row.phase for row in rows}):
        mine = sorted((row for row in rows if row.phase == phase), key=lambda row: row.gmac)
        colour = COLOURS[phase % len(COLOURS)]
        for name, values, symbol in (
            ("before", [r.ap_before for r in mine], "circle-open"),
            ("after", [r.ap_after for r in mine], "circle"),
        ):
            traces.append({
                "type": "scatter", "mode": "markers", "name": f"after phase {phase + 1}, {name} recalibration",
                "x": [r.gmac for r in mine], "y": values, "text": [f"{r.role}: {r.subnet}" for r in mine],
                "hovertemplate": "%{text}<br>%{x:.3f} GMAC, AP %{y:.3f}<extra></extra>",
                "marker": {"color": colour, "symbol": symbol, "size": 9},
            })  # fmt: skip
    layout: dict[str, Any] = {
        "title": {"text": f"Subnets of the pool at {size_hw[1]}x{size_hw[0]}"}, "template": "plotly_white",
        "xaxis": {"title": {"text": "multiply-adds (G)"}}, "yaxis": {"title": {"text": "AP"}, "rangemode": "tozero"},
    }  # fmt: skip
    if base_ap is not None:
        layout["shapes"] = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": base_ap, "y1": base_ap, "line": {"dash": "dot"}}]
        layout["annotations"] = [{"xref": "paper", "x": 1, "y": base_ap, "text": "base", "showarrow": False, "yanchor": "bottom"}]
    return {"data": traces, "layout": layout}


def figure_page(figure: dict[str, Any]) -> str:
    """Return an HTML page that shows a figure without a network."""
    import plotly.graph_objects as go
    import plotly.io

    page: str = plotly.io.to_html(go.Figure(figure), include_plotlyjs=True, full_html=True)
    return page
