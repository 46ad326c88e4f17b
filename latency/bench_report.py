"""A benchmark's figures: as plain data, on screen, as CSV and as Markdown."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from latency.comparison import Comparison
from latency.profiling import Profile
from latency.targets import Target

_HEADINGS = (
    "model",
    "runs in",
    "precision",
    "size",
    "batch",
    "median ms",
    "p5",
    "p95",
    "p99",
    "FPS",
    "images/s",
    "build s",
    "peak MiB",
    "GPU MiB",
)
_SHOWN_LAYERS = 12
_WIDTH = 132


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """One subject: milliseconds per batch, images per second at the median and over the whole run, seconds to build, peak memory.

    `mode` is "engine" (images in their input form, normalized by default, to boxes) or "decoding" (image files in, boxes out).
    """

    artifact: str
    runs_in: str
    precision: str
    mode: str
    size_hw: tuple[int, int]
    batch: int
    median_ms: float
    p5_ms: float
    p95_ms: float
    p99_ms: float
    fps: float
    throughput: float
    repeats: int
    build_s: float
    peak_rss_mib: float | None
    peak_gpu_mib: float | None

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, one cell per heading."""
        times = (f"{ms:.2f}" for ms in (self.median_ms, self.p5_ms, self.p95_ms, self.p99_ms))
        memory = ("-" if mib is None else f"{mib:.0f}" for mib in (self.peak_rss_mib, self.peak_gpu_mib))
        size = f"{self.size_hw[1]}x{self.size_hw[0]}"
        runs_in = self.runs_in if self.mode == "engine" else f"{self.runs_in} + {self.mode}"
        return (self.artifact, runs_in, self.precision, size, str(self.batch), *times, f"{self.fps:.1f}", f"{self.throughput:.1f}",
                f"{self.build_s:.2f}", *memory)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """Rows, what they were measured on, what disturbed the measurement, and what else was asked for."""

    target: Target
    provenance: dict[str, Any]
    rows: list[BenchmarkRow]
    disturbances: list[str]
    comparison: Comparison | None = None
    profiles: dict[str, Profile] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        profiles = {name: {"run_ms": p.run_ms, "layers": [asdict(layer) for layer in p.layers]} for name, p in self.profiles.items()}
        return {
            "target": self.target.model_dump(), "provenance": self.provenance, "rows": [asdict(row) for row in self.rows],
            "disturbances": self.disturbances, "comparison": None if self.comparison is None else asdict(self.comparison),
            "profiles": profiles,
        }  # fmt: skip


def csv_text(report: BenchmarkReport) -> str:
    """Return the rows as CSV, one column per field."""
    text = io.StringIO()
    rows = [asdict(row) | {"size_hw": f"{row.size_hw[0]}x{row.size_hw[1]}"} for row in report.rows]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown_text(report: BenchmarkReport) -> str:
    """Return the rows as a Markdown table, with what they were measured on below."""
    lines = ["| " + " | ".join(_HEADINGS) + " |", "|" + "---|" * len(_HEADINGS)]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in report.rows]
    return "\n".join([*lines, "", *_notes(report), ""])


def print_report(report: BenchmarkReport, console: Console) -> None:
    """Print the rows as a table, and below it what they were measured on and what speaks against them."""
    target = report.target
    rows = [(_short(row.artifact), *row.cells()[1:]) for row in report.rows]
    used = [column for column in range(len(_HEADINGS)) if any(row[column] != "-" for row in rows)]
    console.print(text_table(f"{target.name} ({target.runtime})", [_HEADINGS[i] for i in used],
                             [[row[i] for i in used] for row in rows]))  # fmt: skip
    for note in _notes(report):
        console.print(note, style="yellow" if note.startswith("disturbed") else None, markup=False, highlight=False)
    for name, profile in report.profiles.items():
        layers = [(layer.name, layer.operator, f"{layer.latency_ms:.3f}") for layer in profile.layers[:_SHOWN_LAYERS]]
        operators = ", ".join(f"{kind} {ms:.2f}" for kind, ms in list(profile.by_operator().items())[:6])
        title = f"{name}: heaviest layers of one run of {profile.run_ms:.2f} ms by the runtime's clock; ms by operator: {operators}"
        console.print(text_table(title, ["layer", "operator", "ms"], layers))


def wide(console: Console) -> Console:
    """Return a console that is wide enough for a table of figures where the output is a file."""
    return console if console.is_terminal else Console(width=max(console.width, _WIDTH), file=console.file)


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


def text_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose first columns are words and whose others are figures."""
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for index, heading in enumerate(headings):
        words = all(not row[index][:1].isdigit() for row in rows)
        table.add_column(heading, overflow="fold", no_wrap=not words, justify="left" if words or not index else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _notes(report: BenchmarkReport) -> list[str]:
    facts = report.provenance
    device = facts.get("gpu") or facts["cpu"]
    notes = [f"{device}, {facts['threads']} threads, {facts['provider']} {facts['runtime_version']}, load {facts['load_average']}"]
    if (one := report.comparison) is not None:
        sure = f"{100 * one.confidence:.0f} % interval {one.low:.4f} to {one.high:.4f}, {one.turns} interleaved turns"
        notes.append(f"ratio {one.second} / {one.first}: {one.ratio:.4f} ({sure}): {one.verdict}")
    return notes + [f"disturbed: {what}" for what in report.disturbances]
