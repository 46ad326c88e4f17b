"""Functions on data sets."""

from pathlib import Path

from rich.console import Console

from jdnas.data.splitting import split_data as split_folder
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


def split_data(images: PathLike, annotations: PathLike, *, out: PathLike, val: float = 0.2, seed: int = 0) -> dict[str, int]:
    """Make one folder of images and one COCO file into a data set with a training and a validation split; return the images of each.

    About the share `val` of every class is held out for validation. A DataError says what is wrong, before anything is written.
    """
    return split_folder(Path(images), Path(annotations), Path(out), share=val, seed=seed)
