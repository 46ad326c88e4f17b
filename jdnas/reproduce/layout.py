"""How results are laid out: the paper's rows and columns, as text for people and as JSON for programs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jdnas.reproduce.records import Record


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text: all rows have one cell for each column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {self.title!r} has {len(row)} cells for {len(self.columns)} columns: {row}")

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [f"# {self.title}", "", f"| {' | '.join(self.columns)} |", f"|{'---|' * len(self.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of a table or figure: its layout, the figures behind the cells, and the drawing of a figure as SVG."""

    table: Table
    rows: Sequence[Record] = field(default_factory=tuple)
    svg: str = ""


def points(ap: float | None) -> str:
    """Write an AP in 0..1 as the paper does, in points."""
    return "-" if ap is None else f"{100 * ap:.1f}"


def points_spread(found: Record) -> str:
    """Write the mean of APs in points, with the standard deviation where there is one."""
    return points(found["mean"]) + (f" ± {100 * found['std']:.1f}" if found["std"] is not None else "")


def percent_change(before: float, after: float) -> str:
    """Write a change as the paper does: `-27%`."""
    return f"{100 * (after - before) / before:+.0f}%" if before else "-"


def size_text(size_hw: Sequence[int]) -> str:
    """Write (height, width) as `WIDTHxHEIGHT`."""
    return f"{size_hw[1]}x{size_hw[0]}"


def with_paper(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], beside: Sequence[Any] | None) -> Any:
    """Return columns and rows with the paper's figures in a last column, where `beside` has one text for each row."""
    if beside is None:
        return columns, tuple(rows)
    return (*columns, "paper"), tuple((*row, text or "-") for row, text in zip(rows, beside, strict=True))
