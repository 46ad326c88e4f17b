"""Functions on data sets."""

from pathlib import Path

from rich.console import Console

from jdnas.pipeline.data_check import Checked, check_folder

PathLike = str | Path


def check_data(
    folder: PathLike, *, out: PathLike = "data-check", images: int = 24, seed: int = 0, quiet: bool = False,
    console: Console | None = None,
) -> Checked:  # fmt: skip
    """Look for what training would stumble over in a data set in COCO, YOLO or Pascal VOC layout.

    Broken images, odd boxes, class balance, sizes, classes that differ between splits, and images that are in both. `out` gets
    check.html, check.json and sheet.png, on which `images` pictures are drawn. A DataError says that there is no such folder.
    """
    return check_folder(Path(folder), Path(out), images=images, seed=seed, console=console or Console(), quiet=quiet)
