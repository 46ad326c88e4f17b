"""Commands on data sets."""

from pathlib import Path
from typing import Annotated

import typer

from jdnas.cli.output import AsJson, Output, Quiet

app = typer.Typer(no_args_is_help=True)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Data set in COCO, YOLO or Pascal VOC layout.")],
    out: Annotated[Path, typer.Option(help="Folder for check.html, check.json and sheet.png.")] = Path("data-check"),
    images: Annotated[int, typer.Option(min=0, max=400, help="Images on the contact sheet.")] = 24,
    seed: Annotated[int, typer.Option(help="Which images those are.")] = 0,
    quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Look for what training would stumble over: broken images, odd boxes, classes that differ, images in both splits.

    Exit code 1 where something is found that training would stop at or leave out, 0 otherwise.

    Example: jdnas data check my_data --out my_data_check
    """
    from jdnas.api import check_data
    from jdnas.cli.data_tables import check_tables

    output = Output(quiet, as_json)
    checked = check_data(folder, out=out, images=images, seed=seed, quiet=quiet, console=output.console)
    written = ", ".join(str(path) for path in (checked.page, checked.json, checked.sheet) if path is not None)
    output.result(checked.report.to_dict(), *check_tables(checked.report), written)
    if checked.report.errors:
        raise typer.Exit(1)


def register(root: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    root.add_typer(app, name="data", help="Data sets: is this one fit for training?")
