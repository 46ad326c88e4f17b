import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from jdnas.presets import preset
from jdnas.report.inputs import RunData, read_run
from jdnas.report.stages import latency_chart, part_names, parts_change, parts_chart, stage_drawing, stage_rows
from jdnas.spec import Stage


def bars(drawing: str, kind: str) -> list[ET.Element]:
    return [e for e in ET.fromstring(drawing).iter("rect") if e.get("class") == kind]


def test_parts_are_named_and_stages_count_from_one() -> None:
    parts = ["backbone.stem", "backbone.s0", "backbone.s1", "neck", "rpn", "roi"]
    assert list(part_names(parts).values()) == ["stem", "stage 1", "stage 2", "neck", "RPN", "box head"]
    assert part_names(["backbone.s1", "mask_head"]) == {"backbone.s1": "stage 1", "mask_head": "mask head"}


def test_parts_chart_and_its_sentence() -> None:
    run = RunData({}, (), "latency_ms", {"parts": {"base": {"neck": 4e9, "roi": 6e9}, "student": {"neck": 4e9, "roi": 3e9}}})
    chart = parts_chart(run)
    assert chart is not None
    assert [(t["name"], t["y"]) for t in chart["data"]] == [("base", [4.0, 6.0]), ("student", [4.0, 3.0])]
    assert parts_change(run) == "10.0 G → 7.00 G multiply-adds in all (−30 %)."
    assert parts_change(RunData({}, (), "latency_ms")) == ""


def test_parts_stand_in_the_order_of_the_data() -> None:
    parts = {
        "backbone.s10": 1e9,
        "backbone.s2": 1e9,
        "backbone.stem": 1e9,
        "backbone.tail": 1e9,
        "neck": 1e9,
        "rest": 1e9,
        "roi": 1e9,
        "rpn": 1e9,
    }
    run = RunData({}, (), "latency_ms", {"parts": {"base": parts, "student": parts}, "parts_ms": {"parts": [{"rest": 2.0}, {"rest": 1.0}]}})
    chart, ms = parts_chart(run), latency_chart(run)
    assert chart is not None and ms is not None
    assert chart["data"][0]["x"] == ["stem", "stage 2", "stage 10", "tail", "neck", "RPN", "box head", "rest"]
    assert [trace["y"] for trace in ms["data"]] == [[2.0], [1.0]]
    assert latency_chart(RunData({}, (), "latency_ms", {"parts_ms": None})) is None


def test_stage_rows_mark_what_changed() -> None:
    base = preset("r18", 7)
    rows = {r.name: r for r in stage_rows(base, base.with_stage(1, Stage(128, (96,))))}
    assert (rows["stage 2"].base, rows["stage 2"].student, rows["stage 2"].changed) == ("2 × 128, out 128", "1 × 96, out 128", True)
    assert [name for name, row in rows.items() if row.changed] == ["stage 2"]


@pytest.mark.parametrize("name", ["r18", "r101", "lite0"])
def test_drawing_has_a_bar_per_block(name: str) -> None:
    base = preset(name, 7)
    drawing = stage_drawing(base, base)
    assert len(bars(drawing, "base")) == len(bars(drawing, "student")) == sum(base.depths)
    assert bars(drawing, "ghost") == []
    width = float(ET.fromstring(drawing).get("viewBox", "").split()[2])
    assert max(float(b.get("x", 0)) + float(b.get("width", 0)) for b in bars(drawing, "base")) <= width


def test_bars_are_as_tall_as_channels_and_losses_are_dashed() -> None:
    base = preset("r18", 7)
    drawing = stage_drawing(base, base.with_stage(3, Stage(512, (256,))))
    tall = [float(b.get("height", 0)) for b in bars(drawing, "base")]
    assert tall[-1] / tall[0] == pytest.approx(512 / 64, rel=0.01)
    assert len(bars(drawing, "ghost")) == 2
    assert float(bars(drawing, "student")[-1].get("height", 0)) == pytest.approx(tall[-1] / 2, rel=0.01)


def test_labels_stay_inside_the_drawing_and_apart() -> None:
    base = preset("r18", 7)
    student = base.with_stage(3, Stage(448, (352, 384))).with_stage(2, Stage(208, (176, 192)))
    drawing = ET.fromstring(stage_drawing(base, student))
    width = float(drawing.get("viewBox", "").split()[2])
    labels = [(float(e.get("x", 0)), e.text or "") for e in drawing.iter("text") if "×" in (e.text or "")]
    ends = [x + 6 * len(text) for x, text in labels]  # letters of the page's font are about 6 units wide
    assert len(labels) == 8 and max(ends) <= width
    assert all(end < x for end, (x, _) in zip(ends[:3], labels[1:4], strict=True)) and all(
        end < x for end, (x, _) in zip(ends[4:7], labels[5:], strict=True)
    )


def test_families_with_another_number_of_stages() -> None:
    drawing = stage_drawing(preset("r18", 7), preset("lite0", 7))
    assert len(bars(drawing, "student")) == sum(preset("lite0", 7).depths)


def test_full_run_has_both_architectures(full_run: Path) -> None:
    run = read_run(full_run)
    assert run.base is not None and run.winner is not None and run.base.student != run.winner.student
