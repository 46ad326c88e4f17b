"""`jdnas data check`: examine a data set, and leave what was found as a page, as JSON and as a contact sheet."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from jdnas.atomic import write_atomically
from jdnas.data.check import DataReport, check_data, odd_boxes
from jdnas.data.images import read_image
from jdnas.data.records import DetectionSet, Record, name_in
from jdnas.errors import ConfigError
from jdnas.pipeline.progress import counting
from jdnas.report.data_page import data_page
from jdnas.report.drawing import Pixels, contact_sheet, draw_detections, write_png

SHEET_NOTE = "First images with something odd, then some of the others; the boxes are those that training gets."


@dataclass(frozen=True, slots=True)
class Checked:
    """A finished check: what was found, and the files that say so (`sheet` is None where no image could be drawn)."""

    report: DataReport
    page: Path
    json: Path
    sheet: Path | None


def check_folder(root: Path, out: Path, *, images: int, seed: int, console: Console, quiet: bool = False) -> Checked:
    """Examine the data set in `root`; write `check.html`, `check.json` and `sheet.png` with `images` pictures into `out`."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; choose another folder with --out")
    with counting(console, quiet=quiet) as count:
        report = check_data(root, count)
    drawn = _drawn(report, images, seed)
    sheet = out / "sheet.png" if drawn else None
    if sheet is not None:
        write_png(sheet, contact_sheet([image for image, _ in drawn], [caption for _, caption in drawn]))
    write_atomically(out / "check.json", (json.dumps(report.to_dict(), indent=1) + "\n").encode())
    write_atomically(out / "check.html", data_page(report, sheet, SHEET_NOTE).encode())
    return Checked(report, out / "check.html", out / "check.json", sheet)


def _drawn(report: DataReport, count: int, seed: int) -> list[tuple[Pixels, str]]:
    """Return at most `count` pictures with captions: odd ones in up to half of the places, the others at random, train before val."""
    drawn = []
    for data in report.sets.values():
        share = -(-count // len(report.sets))
        odd: list[tuple[Record, str]] = []
        plain: list[tuple[Record, str]] = []
        reasons = {name: code for code, names in data.flawed.items() for name in names}
        for record in data.records:
            own = +odd_boxes(record)
            code = reasons.get(name_in(data.root, record.path)) or next(iter(own), "")
            (odd if code and code != "images_without_boxes" else plain).append((record, code))
        chosen = odd[: share // 2]
        chosen += random.Random(seed).sample(plain, min(len(plain), share - len(chosen)))
        drawn += [(_picture(record, data.classes), _caption(data, record, code)) for record, code in chosen]
    return drawn


def _picture(record: Record, classes: tuple[str, ...]) -> Pixels:
    return draw_detections(read_image(record.path), record.boxes_xyxy, record.labels, None, classes, height=480)


def _caption(data: DetectionSet, record: Record, code: str) -> str:
    return f"{data.split}: {name_in(data.root, record.path)}{': ' + code.replace('_', ' ') if code else ''}"
