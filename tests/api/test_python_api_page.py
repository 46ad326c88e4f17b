"""The examples of docs/python-api.md, run one after the other in an empty folder."""

import re
from pathlib import Path

import pytest

import jdnas
from tests.pipeline.conftest import NANO

PAGE = Path(__file__).parents[2] / "docs" / "python-api.md"
PRESET = re.compile(r'^preset = "quick".*$', re.MULTILINE)


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_page_names_every_function() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8").partition("## All functions")[2]))
    functions = {name for name in jdnas.__all__ if name[0].islower()}
    assert functions - named == set(), "functions that the page does not name"


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks()
    assert len(found) >= 9 and len(PRESET.findall(found[0])) == 1
    found[0] = PRESET.sub(f"preset = {str(NANO)!r}", found[0])  # networks that learn nothing, in seconds
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(found):
        exec(compile(block, f"{PAGE.name}, block {number + 1}", "exec"), names)
    said = capsys.readouterr().out
    assert "unknown base 'r17'" in said and "student_b2.onnx" in said and "estimate for cpu" in said
    run = names["run"]
    assert isinstance(run, jdnas.Run)
    shown = run._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and "jdnas report" in shown and "<script" not in shown
    assert "its report is written at the end" in jdnas.Run(tmp_path / "runs" / "base")._repr_html_()
    assert not (tmp_path / "runs" / "wrong").exists()
