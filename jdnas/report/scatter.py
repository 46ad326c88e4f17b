"""Predicted against measured latencies as a drawing."""

import math
from collections.abc import Callable
from html import escape
from pathlib import Path
from statistics import median

from jdnas.atomic import write_atomically
from jdnas.report.inputs import Json
from jdnas.report.tiles import significant

Place = Callable[[float], float]
_SIDE, _MARGIN = 480, 56
_BAND = 0.05
_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626")


def write_scatter(validation: Json, path: Path) -> Path:
    """Write an SVG of a validation (`latency.validation.Validation.to_dict`): one point per engine, the band of 5 % around equality."""
    write_atomically(path, scatter_svg(validation).encode())
    return path


def scatter_svg(validation: Json) -> str:
    """Return the drawing; both axes are logarithmic and the same."""
    pairs, figures = validation["pairs"], validation["figures"]
    points = [(pair["spec"]["family"], float(median(pair["measured_ms"])), float(pair["predicted_ms"])) for pair in pairs]
    values = [value for _, *both in points for value in both]
    low, high = min(values) / 1.1, max(values) * 1.1

    def place(value: float) -> float:
        return _MARGIN + (_SIDE - 2 * _MARGIN) * math.log(value / low) / math.log(high / low)

    families = sorted({family for family, _, _ in points})
    colours = {family: _COLOURS[index % len(_COLOURS)] for index, family in enumerate(families)}
    parts = [_band(place, low, high), *_ticks(place, low, high)]
    for family, measured, predicted in points:
        tip = escape(f"{family}: measured {significant(measured)} ms, predicted {significant(predicted)} ms")
        parts.append(f'<circle cx="{place(measured):.1f}" cy="{_SIDE - place(predicted):.1f}" r="4" fill="{colours[family]}" '
                     f'fill-opacity="0.7"><title>{tip}</title></circle>')  # fmt: skip
    for index, family in enumerate(families):
        parts.append(f'<text x="{_MARGIN + 10}" y="{_MARGIN + 18 * (index + 1)}" fill="{colours[family]}">{escape(family)}</text>')
    tau = "unknown" if figures["kendall_tau"] is None else f"{figures['kendall_tau']:.3f}"
    title = f"{escape(str(validation['target']))}: {len(points)} engines, mean error {100 * figures['mape']:.1f} %, Kendall tau {tau}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIDE} {_SIDE}" font-family="sans-serif" font-size="13">'
            f'<rect width="{_SIDE}" height="{_SIDE}" fill="white"/><text x="{_MARGIN}" y="28">{title}</text>{"".join(parts)}'
            f'<text x="{_SIDE / 2}" y="{_SIDE - 10}" text-anchor="middle">measured ms</text>'
            f'<text x="16" y="{_SIDE / 2}" text-anchor="middle" transform="rotate(-90 16 {_SIDE / 2})">predicted ms</text>'
            "</svg>\n")  # fmt: skip


def _band(place: Place, low: float, high: float) -> str:
    corners = [(low, low * (1 + _BAND)), (high, high * (1 + _BAND)), (high, high * (1 - _BAND)), (low, low * (1 - _BAND))]
    outline = " ".join(f"{place(x):.1f},{_SIDE - place(y):.1f}" for x, y in corners)
    start, end = place(low), place(high)
    return (f'<polygon points="{outline}" fill="#e5e7eb"/>'
            f'<line x1="{start}" y1="{_SIDE - start}" x2="{end}" y2="{_SIDE - end}" stroke="#6b7280"/>')  # fmt: skip


def _ticks(place: Place, low: float, high: float) -> list[str]:
    steps = [digit * 10**power for power in range(-3, 6) for digit in (1, 2, 5)]
    found = []
    for value in (step for step in steps if low <= step <= high):
        at = place(value)
        found.append(f'<text x="{at:.1f}" y="{_SIDE - _MARGIN + 18}" text-anchor="middle">{value:g}</text>'
                     f'<text x="{_MARGIN - 8}" y="{_SIDE - at + 4:.1f}" text-anchor="end">{value:g}</text>'
                     f'<line x1="{at:.1f}" y1="{_MARGIN}" x2="{at:.1f}" y2="{_SIDE - _MARGIN}" stroke="#f3f4f6"/>')  # fmt: skip
    return found
