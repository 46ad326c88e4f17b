"""What `jdnas data check` prints."""

from collections.abc import Iterator

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from jdnas.data.check import DataReport

_STYLES = {"error": "red", "warning": "yellow", "note": "dim"}
_SHOWN_FILES, _BAR = 3, 24


def check_tables(report: DataReport) -> Iterator[Table | str]:
    """Yield the tables of a data set: findings, counts and class balance, histograms."""
    yield _findings(report) if report.findings else f"{report.name}: nothing odd"
    yield _classes(report)
    if report.splits:
        yield _histograms(report)


def _findings(report: DataReport) -> Table:
    words = f"{len(report.errors)} kinds of errors" if report.errors else "nothing that training would stumble over"
    table = Table(title=f"{report.name}: {words}", title_justify="left", box=SIMPLE)
    for column in ("", "split", "what", "files"):
        table.add_column(column, overflow="fold")
    for finding in report.findings:
        more = f", ... ({len(finding.files)} in check.json)" if len(finding.files) > _SHOWN_FILES else ""
        style, files = _STYLES[finding.severity], ", ".join(finding.files[:_SHOWN_FILES]) + more
        table.add_row(f"[{style}]{finding.severity}[/{style}]", finding.split, escape(finding.message), escape(files))
    return table


def _classes(report: DataReport) -> Table:
    table = Table(title="Boxes (images) per class", title_justify="left", box=SIMPLE)
    table.add_column("")
    for split in report.splits:
        table.add_column(split, justify="right")
    facts = report.splits.values()
    table.add_row("fingerprint", *(one.fingerprint for one in facts), style="dim")
    table.add_row("all", *(f"{one.boxes} ({one.images})" for one in facts), style="bold")
    for name in dict.fromkeys(name for one in facts for name in one.classes):
        cells = [one.classes.get(name) for one in facts]
        table.add_row(escape(name), *("not listed" if cell is None else f"{cell['boxes']} ({cell['images']})" for cell in cells))
    return table


def _histograms(report: DataReport) -> Table:
    table = Table(title="Sizes and shapes, both splits together", title_justify="left", box=SIMPLE)
    for column in ("", "from", "to", "count", ""):
        table.add_column(column, justify="right" if column in ("from", "to", "count") else "left")
    facts = list(report.splits.values())
    for name, first in facts[0].histograms.items():
        counts = [sum(one.histograms[name].counts[i] for one in facts) for i in range(len(first.counts))]
        most = max(max(counts), 1)
        shown = [i for i, count in enumerate(counts) if count]
        for place, i in enumerate(shown):
            bar = "█" * max(1, round(_BAR * counts[i] / most))
            low, high = first.edges[i], first.edges[i + 1]
            table.add_row(name if not place else "", f"{low:g}", f"{high:g}", str(counts[i]), bar, end_section=place == len(shown) - 1)
    return table
