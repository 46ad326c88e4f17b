"""The command that makes the paper's tables and figures."""

from pathlib import Path
from typing import Annotated

import typer

from jdnas.cli.output import AsJson, Output, Quiet
from jdnas.cli.run_commands import Device, Override, overrides, resumable, this_command
from jdnas.errors import ConfigError

What = Annotated[str, typer.Argument(help="table1, table2, table3, table4, table5, table7, figure4, figure5, figure6, figure7, or all.")]
Weights = Annotated[
    list[str] | None, typer.Option(help="BASE=FILE: trained weights that a base starts from, e.g. r50=r50.pth (may be repeated).")
]


def reproduce(
    what: What,
    scale: Annotated[
        str, typer.Option(help="tiny (minutes, nothing is learned), small (hours of a CPU), paper (GPUs), or a YAML file.")
    ] = "tiny",
    data: Annotated[str | None, typer.Option(help="Folder of a data set; default: that of the scale.")] = None,
    work: Annotated[Path | None, typer.Option(help="Where trainings are kept; default: runs/reproduce-SCALE.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where results are written; default: benchmarks/results/reproduce/SCALE.")] = None,
    weights: Weights = None, device: Device = None, override: Override = None,
    table_only: Annotated[bool, typer.Option("--table-only", help="Train nothing; lay out what is there.")] = False,
    quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Make a table or figure of the paper: same layout, the paper's figures beside ours where the data is COCO.

    Every training is kept in --work; the same command goes on where it was stopped. Results are a Markdown file, a JSON file with seeds and
    provenance, and an SVG for figures.

    Example: jdnas reproduce table1 --scale tiny
    """
    import jdnas

    output = Output(quiet, as_json)
    settings = overrides(override) | ({} if device is None else {"device": device})
    with resumable(this_command()):
        files = jdnas.reproduce_paper(
            what, scale=scale, data=data, work=work, out=out, weights=_pairs(weights or []), settings=settings, table_only=table_only,
            quiet=quiet, console=output.console,
        )  # fmt: skip
    output.result([str(file) for file in files], *(f"{file}\n\n{file.read_text()}" for file in files))


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        base, sign, file = text.partition("=")
        if not (base and sign and file):
            raise ConfigError(f"--weights takes BASE=FILE such as r50=r50.pth, got {text!r}")
        pairs[base] = file
    return pairs


def register(app: typer.Typer) -> None:
    """Add the command of this file to the command line."""
    app.command()(reproduce)
