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


@app.command()
def split(
    images: Annotated[Path, typer.Argument(help="Folder of images.")],
    annotations: Annotated[Path, typer.Argument(help="One COCO file; its file names are relative to the folder.")],
    out: Annotated[Path, typer.Option(help="Folder to make: images/, annotations/train.json and annotations/val.json.")],
    val: Annotated[float, typer.Option(help="Share of the images of each class that is held out for validation.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Which images those are.")] = 0,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Make a data set with a training and a validation split out of one folder of images and one COCO file.

    Image files are linked, or copied where the file system has no hard links.

    Example: jdnas data split photos labels.json --out my_data
    """
    from jdnas.api import split_data

    counts = split_data(images, annotations, out=out, val=val, seed=seed)
    line = f"{out}: {counts['train']} training and {counts['val']} validation images; look at it with: jdnas data check {out}"
    Output(as_json=as_json).result(counts | {"folder": str(out)}, line)


def register(root: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    root.add_typer(app, name="data", help="Data sets: is this one fit for training?")
