"""The command line, called in this process; and small folders in COCO layout."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jdnas.cli import main


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The only line of a known error."""
        assert self.code == 2, self
        lines = self.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), self.err
        return lines[0]


Call = Callable[..., Answer]


@pytest.fixture
def jdnas(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Call `jdnas` with arguments in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["jdnas", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


Write = Callable[..., Path]


@pytest.fixture
def coco(tmp_path: Path) -> Write:
    """Write a data set of `images` images a split, with one box each; `ids` are its category ids."""

    def write(ids: tuple[int, ...] = (1, 2), boxes: tuple[Any, ...] = ((4, 4, 20, 20),), images: int = 2) -> Path:
        root = tmp_path / "set"
        (root / "images").mkdir(parents=True)
        (root / "annotations").mkdir()
        for split in ("train", "val"):
            names = [f"{split}{index}.png" for index in range(images)]
            for index, name in enumerate(names):
                Image.new("RGB", (64, 48), (40 * index, 90, 200)).save(root / "images" / name)
            listed = [{"id": index, "file_name": name, "width": 64, "height": 48} for index, name in enumerate(names)]
            found = [
                {"id": 1 + index * len(boxes) + place, "image_id": index, "category_id": ids[(index + place) % len(ids)], "bbox": list(box)}
                for index in range(images)
                for place, box in enumerate(boxes)
            ]
            categories = [{"id": category_id, "name": f"thing{category_id}"} for category_id in ids]
            document = {"images": listed, "annotations": found, "categories": categories}
            (root / "annotations" / f"{split}.json").write_text(json.dumps(document))
        return root

    return write
