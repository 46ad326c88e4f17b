"""`jdnas reproduce all --scale tiny`: every table and figure, once."""

import contextlib
import json
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from jdnas.models.complexity import backbone_multiply_adds
from jdnas.reproduce.items import ITEMS
from jdnas.spec import DetectorSpec
from tests.pipeline.conftest import jdnas as call

pytestmark = pytest.mark.slow
COLUMNS = {
    "table1": ["Base model", "Method", "Input size", "AP"],
    "table2": ["Model", "Pruning percentage", "Backbone FLOPS (G)", "AP"],
    "table3": ["KD Method", "Student", "Teacher", "AP"],
    "table4": ["Base model", "Group", "Input size", "FLOPS (G)", "FPS", "AP"],
    "table5": ["Method", "Intermediate backbone FLOPS (G)", "Intermediate AP", "Final backbone FLOPS (G)", "Final AP"],
    "table7": ["Search method", "FLOPS (G)", "AP", "#Searched architectures", "Search cost (hours of this device)"],
}
ROWS = {"table1": 6, "table2": 4, "table3": 4, "table4": 6, "table5": 3, "table7": 2, "figure4": 3, "figure5": 2}


def jdnas(*arguments: object) -> str:
    code, out, err = call(*arguments)
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reproduce")
    with contextlib.chdir(root):
        said = jdnas("reproduce", "all", "--scale", "tiny")
    assert "table1: pool of seed 0:" in said and "# Table 4: detectors before and after the search" in said
    return root


def test_every_item_leaves_its_files(results: Path) -> None:
    out = results / "benchmarks" / "results" / "reproduce" / "tiny"
    found = {path.name for path in out.iterdir()}
    figures = {name for name in ITEMS if name.startswith("figure")}
    assert found == {f"{name}.{kind}" for name in ITEMS for kind in ("json", "md")} | {f"{name}.svg" for name in figures}
    for name in ITEMS:
        document, text = json.loads((out / f"{name}.json").read_text()), (out / f"{name}.md").read_text()
        assert document["what"] == name and document["scale"] == "tiny" and document["seeds"] == [0]
        for made_with in (*document["provenance"], document["laid_out_with"]):
            assert made_with.keys() >= {"commit", "device", "torch", "command", "date"}
            assert made_with["command"].endswith("reproduce all --scale tiny")
        assert document["provenance"]
        assert document["data"]["train_images"] == 12 and document["settings"]["base_train"]["epochs"] == 1
        assert document["cells"] and all(len(row) == len(document["columns"]) for row in document["cells"])
        assert f"| {' | '.join(document['columns'])} |" in text and "12 training and 6 validation images of shapes" in text
        assert str(results) not in text + json.dumps(document)
        if name in COLUMNS:
            assert document["columns"] == COLUMNS[name] and "paper" not in document["columns"]
            assert any("left out" in note for note in document["notes"])
        if name in ROWS:
            assert len(document["cells"]) == ROWS[name]
        if name in figures:
            ElementTree.parse(out / f"{name}.svg")
            assert f"]({name}.svg)" in text


def test_the_rows_hold_together(results: Path) -> None:
    out = results / "benchmarks" / "results" / "reproduce" / "tiny"
    rows = {name: json.loads((out / f"{name}.json").read_text())["rows"] for name in ITEMS}
    costs = [row["backbone_flops_g"] for row in rows["table2"]]
    assert costs == sorted(costs, reverse=True) and costs[0] > costs[-1] > 0.5 * costs[0]
    ours = [row for row in rows["table4"] if row["group"] == "ours"]
    assert [row["base_model"] for row in ours] == ["R18-FPN", "R50-FPN"]
    for row in rows["figure7"]:
        spec = next(r["specs"][0] for r in rows["table4"] if (r["base_model"], r["group"]) == (row["model"], "baseline"))
        assert sum(row["base"]) == pytest.approx(backbone_multiply_adds(DetectorSpec.from_dict(spec), (64, 64)) / 1e9, abs=4e-4)
    # One pool teaches both searches, so both start with the same teacher (paper, Figure 5).
    first = {row["model"]: row["capacities"][0][0]["teacher"] for row in rows["figure5"]}
    assert first["R18-FPN"] == first["R50-FPN"]


def test_nothing_is_done_twice(results: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (results / "runs").rglob("*") if path.is_file() and path.name != ".lock"}
    started = time.monotonic()
    with contextlib.chdir(results):
        said = jdnas("reproduce", "all", "--scale", "tiny", "--out", "again", "--quiet")
    assert time.monotonic() - started < 30
    assert {path: path.stat().st_mtime_ns for path in before} == before
    cells = [
        json.loads((place / "table4.json").read_text())["cells"]
        for place in (results / "again", results / "benchmarks/results/reproduce/tiny")
    ]
    assert cells[0] == cells[1] and said == ""
