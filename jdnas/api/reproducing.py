"""The paper's tables and figures."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from jdnas.api.settings import Settings, nested
from jdnas.reproduce.items import named, reproduce
from jdnas.reproduce.lab import open_lab

PathLike = str | Path


def reproduce_paper(
    what: str, *, scale: str = "tiny", data: PathLike | None = None, work: PathLike | None = None, out: PathLike | None = None,
    weights: Mapping[str, PathLike] | None = None, settings: Settings | None = None, table_only: bool = False, quiet: bool = False,
    console: Console | None = None,
) -> list[Path]:  # fmt: skip
    """Make a table or figure of the paper (table1, ..., figure7, or all) and return the Markdown files, each with a .json beside it.

    `scale` is tiny, small, paper or a YAML file. Trainings are kept in `work` (runs/reproduce-SCALE); results go to `out`
    (benchmarks/results/reproduce/SCALE). `weights`: trained weights that a base starts from. `table_only` trains nothing.
    """
    named(what)
    name = Path(scale).stem
    lab = open_lab(
        scale, data=None if data is None else str(data), work=Path(work or f"runs/reproduce-{name}"), overrides=nested(settings or {}),
        weights={base: str(file) for base, file in (weights or {}).items()}, console=console or Console(), quiet=quiet,
    )  # fmt: skip
    return reproduce(what, lab, Path(out or Path("benchmarks/results/reproduce") / name), scale=name, table_only=table_only)
