"""Before and after: computation per part, the table of stages, and a drawing of both networks."""

import math
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from jdnas.report.inputs import Json, RunData, as_dict, as_rows, finite
from jdnas.report.tiles import signed, significant
from jdnas.spec import DetectorSpec
from jdnas.student.explain import width_range

_PART_NAMES = {"neck": "neck", "rpn": "RPN", "roi": "box head"}

# The drawing, in SVG units.
_BLOCK, _GAP, _STAGE_GAP, _LEFT, _TALLEST, _LABELS, _LETTER, _NARROWEST = 14, 4, 26, 64, 92, 34, 6.5, 620


@dataclass(frozen=True, slots=True)
class StageRow:
    """One line of the before/after table."""

    name: str
    base: str
    student: str
    changed: bool


def part_names(parts: list[str]) -> dict[str, str]:
    """Return a short name for every part of `parts`; stages count from 1 whichever number their first one bears."""
    offset = 1 if "backbone.s0" in parts else 0
    names = {}
    for part in parts:
        tail = part.removeprefix("backbone.")
        is_stage = tail.startswith("s") and tail[1:].isdigit()
        names[part] = f"stage {int(tail[1:]) + offset}" if is_stage else _PART_NAMES.get(tail, tail.replace("_", " "))
    return names


def _place(part: str) -> tuple[int, int, str]:
    """Return what sorts parts as data flows through them: stem, stages, tail, neck, heads."""
    tail = part.removeprefix("backbone.")
    if tail[:1] == "s" and tail[1:].isdigit():
        return 1, int(tail[1:]), part
    order = ("stem", "", "tail", "neck", "rpn", "roi")
    return order.index(tail) if tail in order else len(order), 0, part


def parts_chart(run: RunData) -> dict[str, Any] | None:
    """Multiply-adds per part of base and student, as bars side by side (Joint-DetNAS, Fig. 7)."""
    data = as_dict(run.extra.get("parts"))
    return _bars(as_dict(data.get("base")), as_dict(data.get("student")), 1e-9, "multiply-adds (G)", "G multiply-adds")


def latency_chart(run: RunData) -> dict[str, Any] | None:
    """Predicted latency per part of base and student, as bars side by side (Joint-DetNAS, Fig. 7)."""
    parts = as_rows(as_dict(run.extra.get("parts_ms")).get("parts"))
    return _bars(parts[0], parts[1], 1.0, "predicted latency (ms)", "ms") if len(parts) == 2 else None


def _bars(base: Json, student: Json, factor: float, axis: str, unit: str) -> dict[str, Any] | None:
    parts = sorted({*base, *student}, key=_place)
    if not parts:
        return None
    names = part_names(parts)
    traces = []
    for role, values in (("base", base), ("student", student)):
        if values:
            shown = [(finite(values.get(part)) or 0.0) * factor for part in parts]
            texts = [f"{role}, {escape(names[p])}<br>{significant(value)} {unit}" for p, value in zip(parts, shown, strict=True)]
            traces.append(
                {
                    "type": "bar",
                    "name": role,
                    "x": [escape(names[p]) for p in parts],
                    "y": shown,
                    "customdata": texts,
                    "hovertemplate": "%{customdata}<extra></extra>",
                    "marker": {"color": f"var(--{role})"},
                }
            )
    axes = {
        "xaxis": {"type": "category", "showgrid": False, "dtick": 1, "automargin": True},
        "yaxis": {"title": {"text": axis}, "rangemode": "tozero"},
    }
    return {"data": traces, "layout": {**axes, "barmode": "group", "bargap": 0.3, "bargroupgap": 0.08}}


def parts_change(run: RunData) -> str:
    """Return in one sentence how the total of multiply-adds changed, or an empty string."""
    data = as_dict(run.extra.get("parts"))
    totals = [sum(finite(v) or 0.0 for v in as_dict(data.get(role)).values()) for role in ("base", "student")]
    if not all(totals):
        return ""
    change = signed(f"{100 * (totals[1] - totals[0]) / totals[0]:.0f}")
    return f"{significant(totals[0] * 1e-9)} G → {significant(totals[1] * 1e-9)} G multiply-adds in all ({change} %)."


def stage_rows(base: DetectorSpec, student: DetectorSpec) -> list[StageRow]:
    """Return the table of stages, neck and head, base beside student."""

    def stage(spec: DetectorSpec, index: int) -> str:
        if index >= len(spec.stages):
            return "–"
        one = spec.stages[index]
        return f"{one.depth} × {width_range(one.inner)}, out {one.width}"

    pairs = [("stem", str(base.stem), str(student.stem))]
    pairs += [(f"stage {i + 1}", stage(base, i), stage(student, i)) for i in range(max(len(base.stages), len(student.stages)))]
    pairs += [
        ("neck", str(base.neck), str(student.neck)),
        ("RPN", str(base.head.rpn_width), str(student.head.rpn_width)),
        ("box head", str(base.head.width), str(student.head.width)),
        ("proposals", str(base.head.proposals), str(student.head.proposals)),
    ]
    return [StageRow(name, before, after, before != after) for name, before, after in pairs]


def stage_drawing(base: DetectorSpec, student: DetectorSpec) -> str:
    """Return an SVG drawing: a bar per block, as tall as its inner width; what the base had and the student lacks is dashed."""
    count = max(len(base.stages), len(student.stages))
    slots = [max(_depth(base, i), _depth(student, i)) for i in range(count)]
    labels = [math.ceil(_LETTER * max(len(_label(spec, i)) for spec in (base, student))) for i in range(count)]
    widest = max(w for spec in (base, student) for stage in spec.stages for w in stage.inner)
    starts, left = [], _LEFT
    for slot, label in zip(slots, labels, strict=True):
        starts.append(left)
        left += max(slot * (_BLOCK + _GAP) - _GAP, label) + _STAGE_GAP
    width, lane = left - _STAGE_GAP + 8, _TALLEST + _LABELS
    body = _lane("base", base, None, starts, widest, 8) + _lane("student", student, base, starts, widest, 8 + lane + 10)
    height = 8 + 2 * lane + 14
    title = "Blocks per stage of base and student; bar height is the inner width"
    style = f"min-width:{min(width, _NARROWEST)}px;max-width:{1.25 * width:.0f}px"
    return f'<svg class="net" role="img" aria-label="{title}" viewBox="0 0 {width} {height}" style="{style}">{body}</svg>'


def _depth(spec: DetectorSpec, index: int) -> int:
    return spec.stages[index].depth if index < len(spec.stages) else 0


def _label(spec: DetectorSpec, index: int) -> str:
    return f"{spec.stages[index].depth} × {width_range(spec.stages[index].inner)}" if index < len(spec.stages) else ""


def _lane(role: str, spec: DetectorSpec, ghost: DetectorSpec | None, starts: list[int], widest: int, top: int) -> str:
    middle = top + _TALLEST / 2
    parts = [f'<text class="lane" x="0" y="{middle + 4:.0f}">{role}</text>']
    for index, start in enumerate(starts):
        if ghost is not None and index < len(ghost.stages):
            kept = spec.stages[index].inner if index < len(spec.stages) else ()
            lost = [(k, w) for k, w in enumerate(ghost.stages[index].inner) if k >= len(kept) or w > kept[k]]
            parts += [_bar("ghost", start, k, w, widest, middle, "") for k, w in lost]
        if index >= len(spec.stages):
            continue
        stage = spec.stages[index]
        for k, w in enumerate(stage.inner):
            parts.append(_bar(role, start, k, w, widest, middle, f"{role}, stage {index + 1}, block {k + 1}: inner width {w}"))
        foot = top + _TALLEST + 14
        parts.append(f'<text x="{start}" y="{foot}">{_label(spec, index)}</text>')
        parts.append(f'<text class="dim" x="{start}" y="{foot + 13}">out {stage.width}</text>')
    return "".join(parts)


def _bar(kind: str, start: int, index: int, width: int, widest: int, middle: float, title: str) -> str:
    tall = max(4.0, _TALLEST * width / widest)
    x = start + index * (_BLOCK + _GAP)
    tip = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect class="{kind}" x="{x}" y="{middle - tall / 2:.1f}" width="{_BLOCK}" height="{tall:.1f}" rx="2">{tip}</rect>'
