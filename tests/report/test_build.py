import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jdnas.report.build import write_report

SECTIONS = ("headline", "tradeoff", "history", "architecture", "examples", "classes", "training", "deployment", "provenance")
HOSTILE = "</script><script>alert(1)</script>"


class Page(HTMLParser):
    """Elements, attributes that load something, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag if tag in ("script", "style") else ""
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.loads.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text += data


def minimal(folder: Path, summary: dict[str, Any], data: dict[str, Any] | None = None) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    if data is not None:
        (folder / "report_data.json").write_text(json.dumps(data))
    return write_report(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(full_run: Path) -> str:
    path = write_report(full_run)
    assert path == full_run / "report.html"
    return path.read_text(encoding="utf-8")


def test_full_report_has_every_section_and_chart(html: str) -> None:
    page = Page(html)
    assert set(SECTIONS) <= set(page.ids)
    assert {f"chart-{name}" for name in ("cost", "history", "actions", "capacity", "parts", "parts_ms", "curves")} <= set(page.ids)
    assert "<title>jdnas report: aquarium on cpu-ort</title>" in html
    for text in (
        "stingray",
        "Stage",
        "jdnas optimize --base r18",
        "onnxruntime 1.32.0",
        "problems: clipped boxes",
        "box px",
        "trials: 40",
        "Score H × 100: base 23.10",
        "the student's latency is 0.73 of the base's (95 % interval 0.71 to 0.76): more than noise.",
        "pip install jdnas==0.1.0 torch==2.14.1 onnxruntime==1.32.0",
        "fingerprints are train aaaa, val bbbb",
        "Predicted from a measured table",
        "Precisions",
        "int8",
    ):
        assert text in page.text
    assert "not recorded" not in page.text and 'class="missing"' not in html


def test_report_loads_nothing(html: str) -> None:
    page = Page(html)
    assert [load for load in page.loads if not load.startswith(("data:", "#"))] == []
    assert "default-src 'none'" in html
    assert not {"iframe", "object", "embed"} & set(page.tags)
    assert html.count("plotly.js v") == 1
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style and "url(" not in style


def test_figures_in_the_page_are_json(html: str) -> None:
    found = re.search(r'<script id="figures" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    assert set(json.loads(found[1])) == {"cost", "history", "actions", "capacity", "parts", "parts_ms", "curves"}


def test_pictures_are_embedded_as_jpeg(html: str) -> None:
    pictures = [load for load in Page(html).loads if load.startswith("data:image/jpeg;base64,")]
    assert len(pictures) == 2
    assert base64.b64decode(pictures[0].split(",")[1])[:3] == b"\xff\xd8\xff"


def test_an_empty_run_says_what_is_missing(tmp_path: Path) -> None:
    html = minimal(tmp_path / "run", {"base": {"ap": 0.1, "latency_ms": 9.0}})
    page = Page(html)
    assert "no student yet" in page.text
    assert not [i for i in page.ids if i.startswith("chart-")]
    assert html.count('class="missing"') == 13


def test_a_run_without_control_says_so(full_run: Path, tmp_path: Path) -> None:
    summary = json.loads((full_run / "summary.json").read_text())
    del summary["control"]
    page = Page(minimal(tmp_path / "run", summary, json.loads((full_run / "report_data.json").read_text())))
    assert "There is no control" in page.text and "This run trained no control." in page.text
    assert "no example pictures" in page.text, "the pictures were not copied along"


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    trial = {"action": {"kind": HOSTILE}, "ap": 0.1, "cost": 1.0, "score": 0.1, "state": "complete"}
    data = {
        "per_class": {"student": {HOSTILE: 0.5}},
        "trials": [{**trial, "number": n, "parent": n - 1 if n else None} for n in range(3)],
        "parts": {"base": {HOSTILE: 1e9}, "student": {HOSTILE: 1e9}},
        "parity": {HOSTILE: HOSTILE},
        "benchmark": [{HOSTILE: HOSTILE}],
    }
    summary = {"student": {"ap": 0.5}, "data": {"name": HOSTILE, "classes": [HOSTILE]}, "command": HOSTILE, "settings": {HOSTILE: HOSTILE}}
    html = minimal(tmp_path / "run", summary, data)
    assert "<script>alert" not in html
    assert Page(html).tags.count("script") == 3
    assert HOSTILE in Page(html).text


def test_pictures_outside_the_run_folder_are_not_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    html = minimal(tmp_path / "run", {}, {"examples": [{"file": "../secret.jpg"}, {"file": "gone.jpg"}, {"file": "."}]})
    assert "data:image/jpeg" not in html


def test_a_report_is_replaced_and_leaves_nothing_else(tmp_path: Path) -> None:
    minimal(tmp_path / "run", {"seed": 1})
    minimal(tmp_path / "run", {"seed": 2})
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["report.html", "summary.json"]
