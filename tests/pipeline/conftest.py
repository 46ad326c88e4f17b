"""One run of the whole job, shared by all tests of this folder."""

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from jdnas.cli import main

NANO = Path(__file__).with_name("nano.yaml")


def jdnas(*arguments: object) -> tuple[int, str, str]:
    """Call the command line in this process; return exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with patch.object(sys, "argv", ["jdnas", *map(str, arguments)]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


@dataclass(frozen=True)
class NanoRun:
    folder: Path
    arguments: tuple[object, ...]
    out: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def student(self) -> Path:
        return self.folder / "student" / "student"


@pytest.fixture(scope="session")
def nano_run(tmp_path_factory: pytest.TempPathFactory) -> NanoRun:
    folder = tmp_path_factory.mktemp("nano") / "run"
    arguments = ("optimize", "--base", "r18", "--target", "cpu-ort", "--data", "shapes", "--preset", NANO, "--run-dir", folder)
    code, out, err = jdnas(*arguments)
    assert code == 0, out + err
    return NanoRun(folder, arguments, out)
