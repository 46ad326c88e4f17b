"""FPS report: `python latency/benchmark.py --engine FILE [FILE...] --target cpu-ort [--seconds 5] [--json OUT]`.

Frames per second are images per second at the median, end to end in the engine: normalized image in, final boxes out. Several engines
are run in turns.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:
    # Run as a script: the root of the project, not this folder, is where packages are found.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

try:
    from rich.console import Console
    from rich.table import Table

    from export.ort_session import RuntimeInfo
    from jdnas.atomic import write_atomically
    from jdnas.errors import InputError
    from latency.device_lock import exclusive_device
    from latency.engines import open_bound
    from latency.footprint import peak_rss_mib
    from latency.machine import provenance
    from latency.targets import Target, load_target
    from latency.timing import time_interleaved
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    print(f"error: package {error.name!r} is not installed; in the project's folder run: pip install '.[cpu]'", file=sys.stderr)
    sys.exit(2)


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """One artifact: milliseconds per batch, images per second at the median, and the peak memory of a process that runs it."""

    artifact: str
    size_hw: tuple[int, int]
    batch: int
    median_ms: float
    p5_ms: float
    p95_ms: float
    fps: float
    repeats: int
    peak_rss_mib: float | None


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """Rows, and what they were measured on."""

    target: Target
    provenance: dict[str, Any]
    rows: list[BenchmarkRow]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"target": self.target.model_dump(), "provenance": self.provenance, "rows": [asdict(row) for row in self.rows]}


def benchmark(paths: Sequence[Path], target: str | Path, *, seconds: float = 5.0) -> BenchmarkReport:
    """Time artifacts on `target` for about `seconds` each, in turns; an InputError says what cannot be run and why."""
    where = load_target(target)
    if seconds <= 0:
        raise InputError(f"seconds must be positive, got {seconds:g}")
    with exclusive_device(where.runtime), ExitStack() as stack:
        opened = [open_bound(Path(path), where) for path in paths]
        for runner, _ in opened:
            stack.enter_context(runner)
        timings = time_interleaved([call for _, call in opened], seconds=seconds)
        info: RuntimeInfo = opened[0][0].runtime
        rows = []
        for path, (runner, _), timing in zip(paths, opened, timings, strict=True):
            batch = runner.metadata.batch
            peak = peak_rss_mib(Path(path), str(target))
            durations = (timing.median_ms, timing.p5_ms, timing.p95_ms)
            rows.append(BenchmarkRow(str(path), runner.metadata.size_hw, batch, *durations, batch * timing.fps, timing.repeats, peak))
        return BenchmarkReport(where, provenance(info), rows)


def print_report(report: BenchmarkReport, console: Console) -> None:
    """Print the rows as a table, and below it what they were measured on."""
    table = Table(title=f"{report.target.name} ({report.target.runtime}, {report.target.precision})")
    table.add_column("artifact", overflow="fold")
    for name in ("size", "batch", "median ms", "p5", "p95", "FPS", "peak MiB"):
        table.add_column(name, justify="right")
    for row in report.rows:
        size = f"{row.size_hw[0]}x{row.size_hw[1]}"
        times = (f"{ms:.2f}" for ms in (row.median_ms, row.p5_ms, row.p95_ms))
        peak = "-" if row.peak_rss_mib is None else f"{row.peak_rss_mib:.0f}"
        table.add_row(row.artifact, size, str(row.batch), *times, f"{row.fps:.1f}", peak)
    console.print(table)
    facts = report.provenance
    console.print(
        f"{facts['cpu']}, {facts['threads']} threads, {facts['provider']} {facts['runtime_version']}, load {facts['load_average']}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 2 with one line on standard error for wrong input."""
    parser = argparse.ArgumentParser(prog="benchmark", description="Latency and FPS of exported detectors on a target.")
    parser.add_argument("--engine", nargs="+", type=Path, required=True, metavar="FILE", help="exported artifacts, run in turns")
    parser.add_argument("--target", required=True, help="name of a target or path of its YAML file")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each artifact (default: 5)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the report as JSON")
    options = parser.parse_args(arguments)
    try:
        report = benchmark(options.engine, options.target, seconds=options.seconds)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print_report(report, Console())
    if options.json:
        write_atomically(options.json, json.dumps(report.to_dict(), indent=2).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
