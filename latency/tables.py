"""Latency tables: measured blocks and engines of one target, with provenance."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jdnas.atomic import write_atomically
from jdnas.errors import ConfigError, TargetError
from jdnas.spec import DetectorSpec
from latency.blocks import REST, Block, SizeHW
from latency.targets import Target
from latency.timing import Timing

TABLE_VERSION = 1
_LAYER_SIZES, _REST_SIZES = 5, 7


@dataclass(frozen=True, slots=True)
class EngineRow:
    """A whole engine that was measured."""

    spec: DetectorSpec
    size_hw: SizeHW
    timing: Timing


@dataclass(slots=True)
class LatencyTable:
    """Measured latencies of one target at one precision and batch; `provenance` says on what, with what, when and how steadily."""

    target: str
    runtime: str
    precision: str
    batch: int
    provenance: dict[str, Any]
    blocks: dict[Block, Timing] = field(default_factory=dict)
    engines: list[EngineRow] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data: blocks by family, a row being its sizes, then median, p5, p95 in ms and repeats."""
        families: dict[str, list[list[float]]] = {}
        for block, timing in sorted(self.blocks.items()):
            families.setdefault(block.family, []).append([*block.sizes, *_row(timing)])
        engines = [{"spec": e.spec.to_dict(), "size_hw": list(e.size_hw), "timing": _row(e.timing)} for e in self.engines]
        head = {"version": TABLE_VERSION, "target": self.target, "runtime": self.runtime, "precision": self.precision}
        return {**head, "batch": self.batch, "provenance": self.provenance, "blocks": families, "engines": engines}

    def save(self, path: Path) -> None:
        """Write the table; it appears whole or not at all."""
        write_atomically(path, json.dumps(self.to_dict(), separators=(",", ":")).encode())


def read_table(path: Path) -> LatencyTable:
    """Read a table; a TargetError says what is wrong with the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TargetError(f"latency table {path} does not exist; make it with: jdnas latency measure") from error
    except (OSError, ValueError) as error:
        raise TargetError(
            f"latency table {path} is truncated or not JSON: {error}; measure it again with: jdnas latency measure"
        ) from error
    if not isinstance(data, dict) or data.get("version") != TABLE_VERSION:
        got = data.get("version") if isinstance(data, dict) else type(data).__name__
        raise TargetError(f"latency table {path} has version {got!r}; this jdnas reads version {TABLE_VERSION}; measure it again")
    try:
        return _from_dict(data)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ConfigError) as error:
        raise TargetError(f"latency table {path} is malformed: {error}; measure it again with: jdnas latency measure") from error


def find_table(target: Target) -> tuple[LatencyTable, Path] | None:
    """Return the table measured on this machine, else the one that came with jdnas, else None; a TargetError for a broken one."""
    for path in target.table_paths:
        if path.is_file():
            table = read_table(path)
            check_target(table, target, path)
            return table, path
    return None


def no_table(target: Target) -> TargetError:
    """Return the error for a target of which nothing is known; it says how to make a table."""
    return TargetError(
        f"target {target.name!r} has no latency table; on a machine with {target.device} run: jdnas latency measure --target {target.name}"
    )


def load_table(target: Target, path: Path | None = None) -> LatencyTable:
    """Return the table at `path`, else the one measured on this machine, else the shipped one; a TargetError says how to make one."""
    if path is not None:
        table = read_table(path)
        check_target(table, target, path)
        return table
    if (found := find_table(target)) is None:
        raise no_table(target)
    return found[0]


def check_target(table: LatencyTable, target: Target, path: Path) -> None:
    """Raise a TargetError unless `table` is of `target`, with its threads where both say how many."""
    got = (table.target, table.runtime, table.precision, table.batch)
    wanted = (target.name, target.runtime, target.precision, target.batch)
    if got != wanted:
        raise TargetError(f"latency table {path} is of {' '.join(map(str, got))}, not of {' '.join(map(str, wanted))}")
    threads = table.provenance.get("threads")
    if target.processor == "cpu" and None not in (threads, target.threads) and threads != target.threads:
        raise TargetError(f"latency table {path} was measured with {threads} threads, target {target.name!r} has {target.threads}; give "
                          "another path or delete the file")  # fmt: skip


def _from_dict(data: Mapping[str, Any]) -> LatencyTable:
    table = LatencyTable(data["target"], data["runtime"], data["precision"], int(data["batch"]), dict(data["provenance"]))
    for family, rows in data["blocks"].items():
        sizes = _REST_SIZES if family == REST else _LAYER_SIZES
        for row in rows:
            if len(row) != sizes + 4:
                raise ValueError(f"a row of {family!r} has {len(row)} entries instead of {sizes + 4}")
            table.blocks[Block(family, tuple(int(n) for n in row[:sizes]))] = _timing(row[sizes:], f"{family} {row[:sizes]}")
    for engine in data["engines"]:
        height, width = engine["size_hw"]
        timing = _timing(engine["timing"], f"engine {engine['size_hw']}")
        table.engines.append(EngineRow(DetectorSpec.from_dict(engine["spec"]), (int(height), int(width)), timing))
    return table


def _row(timing: Timing) -> list[float]:
    return [*(float(f"{ms:.4g}") for ms in (timing.median_ms, timing.p5_ms, timing.p95_ms)), timing.repeats]


def _timing(row: list[float], where: str) -> Timing:
    if len(row) != 4 or not all(isinstance(ms, int | float) and math.isfinite(ms) and ms > 0 for ms in row):
        raise ValueError(f"row {where} holds {row} instead of four positive numbers")
    return Timing(float(row[0]), float(row[1]), float(row[2]), int(row[3]))
