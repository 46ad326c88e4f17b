"""What `jdnas data check` found, as one self-contained page."""

from html import escape
from pathlib import Path
from typing import Any

from jdnas.data.check import DataReport, Finding
from jdnas.report.page import embedded, render

_TONES = {"error": "bad", "warning": "warn", "note": "same"}
_COLOURS = {"train": "var(--student)", "val": "var(--control)"}
_SHOWN_FILES = 8


def data_page(report: DataReport, sheet: Path | None, sheet_note: str) -> str:
    """Return the page; `sheet` is the picture of the contact sheet, where there is one."""
    names = list(next(iter(report.splits.values())).histograms) if report.splits else []
    histograms = [(f"histogram{index}", name) for index, name in enumerate(names)]
    figures = {key: _histogram(report, name) for key, name in histograms}
    if report.splits:
        figures["classes"] = _classes(report)
    context = {
        "title": f"jdnas data check: {report.name}", "kicker": "jdnas data check", "heading": report.name, "verdict": verdict(report),
        "sections": [("findings", "Findings"), ("counts", "Counts"), ("balance", "Class balance"), ("sizes", "Sizes and shapes"),
                     ("sheet", "Contact sheet")],
        "figures": figures, "findings": [_row(finding) for finding in report.findings], "counts": _counts(report),
        "histograms": histograms, "sheet": None if sheet is None else embedded(sheet), "sheet_note": sheet_note,
    }  # fmt: skip
    return render("data.html.j2", context)


def verdict(report: DataReport) -> list[str]:
    """Return the outcome in one or two plain sentences."""
    counts = [f"{facts.images} {split} images with {facts.boxes} boxes" for split, facts in report.splits.items()]
    read = f"{' and '.join(counts)} can be read." if counts else "No split can be read."
    errors, warnings = len(report.errors), sum(finding.severity == "warning" for finding in report.findings)
    if errors:
        return [read, f"Training would stumble over {errors} {'things' if errors > 1 else 'thing'} below."]
    return [read, f"Training would not stumble over it; {warnings or 'no'} {'warning' if warnings == 1 else 'warnings'}."]


def _row(finding: Finding) -> dict[str, str]:
    more = f", … ({len(finding.files)} in check.json)" if len(finding.files) > _SHOWN_FILES else ""
    files = ", ".join(finding.files[:_SHOWN_FILES]) + more
    return {
        "severity": finding.severity,
        "tone": _TONES[finding.severity],
        "split": finding.split,
        "message": finding.message,
        "files": files,
    }


def _counts(report: DataReport) -> tuple[list[str], list[list[str]]]:
    headings = ["", *report.splits]
    facts = list(report.splits.values())
    rows = [["images", *(str(one.images) for one in facts)], ["boxes", *(str(one.boxes) for one in facts)],
            ["crowd regions", *(str(one.crowd) for one in facts)], ["classes", *(str(len(one.classes)) for one in facts)],
            ["fingerprint", *(one.fingerprint for one in facts)]]  # fmt: skip
    return headings, rows


def _bars(report: DataReport, x: list[str], values: dict[str, list[int]], x_title: str, y_title: str) -> dict[str, Any]:
    traces = [
        {"type": "bar", "name": split, "x": x, "y": values[split], "marker": {"color": _COLOURS[split]},
         "hovertemplate": f"{split}, %{{x}}: %{{y}}<extra></extra>"}
        for split in report.splits
    ]  # fmt: skip
    layout = {"xaxis": {"title": {"text": x_title}, "type": "category", "showgrid": False}, "yaxis": {"title": {"text": y_title},
              "rangemode": "tozero"}, "barmode": "group", "bargap": 0.25, "bargroupgap": 0.06}  # fmt: skip
    return {"data": traces, "layout": layout}


def _classes(report: DataReport) -> dict[str, Any]:
    names = list(dict.fromkeys(name for facts in report.splits.values() for name in facts.classes))
    values = {split: [facts.classes.get(name, {"boxes": 0})["boxes"] for name in names] for split, facts in report.splits.items()}
    return _bars(report, [escape(name) for name in names], values, "", "boxes")


def _histogram(report: DataReport, name: str) -> dict[str, Any]:
    found = {split: facts.histograms[name] for split, facts in report.splits.items()}
    edges = next(iter(found.values())).edges
    bins = [f"{low:g}–{high:g}" for low, high in zip(edges, edges[1:], strict=False)]
    what = "images" if name.startswith("image") else "boxes"
    return _bars(report, bins, {split: list(one.counts) for split, one in found.items()}, name, what)
