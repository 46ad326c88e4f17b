import json
import shutil
from pathlib import Path

import pytest

from jdnas.errors import CheckpointError, ConfigError
from jdnas.report.compare import write_comparison
from tests.report.test_build import HOSTILE, Page


def another(full_run: Path, root: Path, name: str, **changes: object) -> Path:
    """Copy a run under another name with other figures in its summary; a dotted name changes what lies deeper."""
    folder = root / name
    shutil.copytree(full_run, folder)
    summary = json.loads((folder / "summary.json").read_text())
    for key, value in changes.items():
        place, *inner = key.split("__")
        if inner:
            summary[place][inner[0]] = value
        else:
            summary[place] = value
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def runs(full_run: Path, tmp_path: Path) -> list[Path]:
    first = another(full_run, tmp_path, "first", student__ap=0.30, student__latency_ms=20.0, base__latency_ms=30.0)
    second = another(full_run, tmp_path, "second", seed=1, student__ap=0.34, student__latency_ms=24.0, base__latency_ms=30.0)
    settings = {"base": "r50", "search": {"trials": 40, "alpha": 0.15}, "train": {"epochs": 3, "batch": 8}}
    third = another(full_run, tmp_path, "third", settings=settings, student__ap=0.2, student__latency_ms=50.0)
    return [first, second, third]


def test_everything_is_on_the_page(runs: list[Path], tmp_path: Path) -> None:
    path = write_comparison(runs, tmp_path / "out" / "page.html")
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert {"results", "tradeoff", "search", "classes", "differences", "chart-cost", "chart-history", "chart-classes"} <= set(page.ids)
    assert [load for load in page.loads if not load.startswith(("data:", "#"))] == []
    text = " ".join(page.text.split())
    assert "The highest AP of a student is 34.0 (second)." in text and "student takes 20.0 ms (first)" in text
    assert "1.50" in text and "1.25" in text, "times as fast as the base"
    assert "first, second" in text and "32.0 (30.0–34.0)" in text and "22.0 (20.0–24.0)" in text, "mean and range over seeds"
    assert "baser18r18r50" in text.replace(" ", ""), "settings that differ"
    assert "alpha" not in text, "settings that are the same"
    assert "cannot be compared" not in text


def test_what_cannot_be_compared_is_said(full_run: Path, runs: list[Path], tmp_path: Path) -> None:
    other = another(full_run, tmp_path, "other", target__name="v100-trt", data__fingerprint=["aa", "bb"])
    text = " ".join(Page(write_comparison([runs[0], other], tmp_path / "page.html").read_text()).text.split())
    assert "different data, so their APs cannot be compared" in text and "different targets, so their latencies cannot be compared" in text
    assert "nothing can be said of the spread over seeds" in text


def test_same_names_get_their_parents(full_run: Path, tmp_path: Path) -> None:
    both = [another(full_run, tmp_path / place, "run") for place in ("a", "b")]
    text = Page(write_comparison(both, tmp_path / "page.html").read_text()).text
    assert "a/run" in text and "b/run" in text


def test_predicted_latencies_are_called_so(full_run: Path, tmp_path: Path) -> None:
    label = {"student__latency_label": "third-party prior"}
    both = [another(full_run, tmp_path, name, **label) for name in ("first", "second")]
    text = " ".join(Page(write_comparison(both, tmp_path / "page.html").read_text()).text.split())
    assert "(third-party prior)" in text and "predicted, not measured" in text and "measured at different times" not in text


def test_names_from_outside_are_escaped(full_run: Path, runs: list[Path], tmp_path: Path) -> None:
    hostile = another(full_run, tmp_path, "<b>", settings={HOSTILE: HOSTILE}, target__name=HOSTILE)
    html = write_comparison([runs[0], hostile], tmp_path / "page.html").read_text()
    assert "<script>alert" not in html and Page(html).tags.count("script") == 3


def test_runs_that_cannot_be_read(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no summary\.json in .*nowhere"):
        write_comparison([runs[0], tmp_path / "nowhere"], tmp_path / "page.html")
    with pytest.raises(ConfigError, match="named twice"):
        write_comparison([runs[0], runs[0]], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
