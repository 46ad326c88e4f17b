"""From records to the paper's rows, on records made up so that the figures can be worked by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from jdnas.config import RunConfig
from jdnas.presets import preset
from jdnas.reproduce import comparison, distilling, dynamic, pruning, searches, teachers
from jdnas.reproduce.lab import Lab
from jdnas.reproduce.scale import read_scale

COCO = ("person", *(f"thing {index}" for index in range(78)), "toothbrush")


def lab_of(classes: tuple[str, ...], scale: str = "tiny", size_hw: tuple[int, int] = (64, 64)) -> Lab:
    read = read_scale(scale)
    lab = Lab(read, RunConfig.model_validate(read.run_settings()), Path("nowhere"), Console(quiet=True))
    for base in read.models.values():
        spec = preset(base, len(classes))
        train = SimpleNamespace(classes=classes)
        lab._contexts[base, 0] = SimpleNamespace(train=train, base_spec=spec, sizes_hw=(size_hw,), base_size_hw=size_hw, config=lab.config)
    return lab


def test_table_1_sets_the_pool_against_lone_nets() -> None:
    lab = lab_of(("a", "b"))
    pools = [
        {"kind": "pool", "seed": seed, "images": 12, "subnets": {name: {"ap_by_size": {"64x64": ap}} for name in ("smallest", "largest")}}
        for seed, ap in ((0, 0.2), (1, 0.4))
    ]
    alone = [{"kind": "alone", "subnet": "smallest", "seed": 0, "images": 12, "ap_by_size": {"64x64": 0.25}}]
    for pool in pools:
        pool["subnets"]["middle"] = {"ap_by_size": {"64x64": 0.5}}
    table = teachers.result(lab, [*pools, *alone]).table
    assert table.columns == ("Base model", "Method", "Input size", "AP")
    assert table.rows[:3] == (
        ("smallest", "standard", "64x64", "25.0"),
        ("smallest", "our ETP", "64x64", "30.0 ± 14.1"),
        ("middle", "our ETP", "64x64", "50.0 ± 0.0"),
    )
    assert "saw 12 training images" in table.notes[0] and "seeds 0, 1" in table.notes[0]
    assert "left out" in table.notes[1]


def test_the_papers_figures_stand_beside_ours_on_coco() -> None:
    lab = lab_of(COCO, "paper", (800, 1344))
    for context in lab._contexts.values():
        context.sizes_hw = ((480, 800), (800, 1344))
    records = [{"kind": "alone", "subnet": "r50", "seed": 0, "images": 9, "ap_by_size": {"800x480": 0.38, "1344x800": 0.39}}]
    table = teachers.result(lab, records).table
    assert table.columns[-1] == "paper"
    assert table.rows == (("R50-FPN", "standard", "800x480 / 1344x800", "38.0 / 39.0", "38.4 / 39.5"),)


def test_table_2_averages_over_seeds() -> None:
    common = {
        "model": "R18-FPN",
        "method": "jdnas",
        "backbone_flops_g": 0.5,
        "flops_g": 1.0,
        "params_m": 2.0,
        "ap_before": 0.0,
        "ap50": 0.5,
    }
    records = [{**common, "ratio": ratio, "seed": seed, "ap": ap} for ratio, seed, ap in ((0.0, 0, 0.3), (0.1, 0, 0.2), (0.1, 1, 0.4))]
    result = pruning.result(lab_of(("a", "b")), records)
    assert result.table.columns == ("Model", "Pruning percentage", "Backbone FLOPS (G)", "AP")
    assert result.table.rows == (("R18-FPN", "0% (baseline)", "0.5", "30.0"), ("R18-FPN", "10%", "0.5", "30.0 ± 14.1"))
    assert result.rows[1]["seeds"] == [0, 1] and result.rows[1]["ap"] == pytest.approx(0.3)
    beside = pruning.result(lab_of(COCO, "paper"), [record | {"model": "R50-FPN"} for record in records]).table
    assert [row[-1] for row in beside.rows] == ["84.1 G, AP 37.1", "74.4 G, AP 37.3"]


def test_table_3_gives_gains_over_plain_training() -> None:
    common = {"student": "R18-FPN", "teacher": "R50-FPN", "seed": 0, "images": 8}
    records: list[dict[str, Any]] = [{"kind": "teacher", **common, "ap": 0.395}]
    records += [{"kind": "student", **common, "method": method, "ap": ap} for method, ap in (("ours", 0.381), ("plain", 0.36))]
    table = distilling.result(lab_of(COCO, "paper"), records).table
    assert table.columns == ("KD Method", "Student", "Teacher", "AP", "paper")
    assert table.rows == (
        ("none", "R18-FPN (36.0)", "-", "36.0", "36.0"),
        ("our KD", "R18-FPN (36.0)", "R50-FPN (39.5)", "38.1 (+2.1)", "38.1"),
        ("FGFI (its own figure)", "R50-half", "R50", "-", "34.8"),
        ("TAR (its own figure)", "R50", "R152+R101", "-", "40.1"),
    )


def test_figure_4_has_a_line_for_each_arm() -> None:
    ends = {"kind": "ends", "student": {"ap": 0.1}, "largest_teacher": {"ap": 0.3}}
    arms = [{"kind": "arm", "arm": arm, "seed": seed, "images_per_round": 8, "ap": [ap, ap + 0.1]}
            for arm, seed, ap in (("none", 0, 0.1), ("dynamic", 0, 0.2), ("dynamic", 1, 0.4))]  # fmt: skip
    result = dynamic.result(lab_of(("a", "b")), [ends, *arms])
    assert result.table.columns == ("teacher", "round 1", "round 2")
    assert result.table.rows == (("no teacher", "10.0", "20.0"), ("dynamic KD", "30.0 ± 14.1", "40.0 ± 14.1"))
    assert "before the first round: 10.0" in result.table.notes[0]
    assert "dynamic KD" in result.svg and "conventional KD</" not in result.svg
    assert [row["images"] for row in result.rows] == [[8, 16], [8, 16]]


def search_record(seed: int = 0, model: str = "R18-FPN", ap: float = 0.3) -> dict[str, Any]:
    pairs = ((0, 3e6), (1, 2e6))
    role = {"ap50": 0.6, "params_m": 4.0, "latency_ms": 10.0, "size_hw": [64, 64], "spec": preset("r18", 2).to_dict()}
    return {
        "model": model, "seed": seed, "base": role | {"ap": 0.2, "flops_g": 2.0, "fps": 100.0},
        "control": role | {"ap": 0.25, "flops_g": 2.0, "fps": 100.0}, "student": role | {"ap": ap, "flops_g": 1.5, "fps": 120.0},
        "extra_images": 24, "target": {"name": "cpu-ort", "label": "measured"},
        "capacities": [{"number": n, "student": 1e6, "teacher": t, "best_student": 1e6, "best_teacher": t} for n, t in pairs],
        "gains": [{"generation": 0, "change": "prune_channels", "beneficial": 3}, {"generation": 0, "change": "teacher", "beneficial": 1}],
        "score_gains": {"prune_channels": 0.05, "teacher": 0.01},
        "stages": {"base": {"stem": 0.1, "s0": 0.4}, "student": {"stem": 0.1, "s0": 0.3}},
    }  # fmt: skip


def test_table_4_gives_changes_as_the_paper_does() -> None:
    table = searches.table4(lab_of(("a", "b")), [search_record(0), search_record(1, ap=0.34)]).table
    assert table.columns == ("Base model", "Group", "Input size", "FLOPS (G)", "FPS", "AP")
    assert table.rows == (
        ("R18-FPN", "baseline", "64x64", "2", "100", "20.0 ± 0.0"),
        ("R18-FPN", "control", "64x64", "2", "100", "25.0 ± 0.0 (+5.0)"),
        ("R18-FPN", "ours", "64x64", "1.5 (-25%)", "120 (+20%)", "32.0 ± 2.8 (+12.0)"),
    )
    assert "measured for cpu-ort" in table.notes[0] and "(24)" in table.notes[1]
    beside = searches.table4(lab_of(COCO, "paper"), [search_record()]).table
    assert [row[-1] for row in beside.rows] == ["1333x800, 160.5 G, 28.2 FPS, AP 36.0", "-", "1080x720, 117.3 G, 33.0 FPS, AP 38.5"]


def test_figures_5_to_7_tell_what_searches_did() -> None:
    lab, records = lab_of(("a", "b")), [search_record(), search_record(model="R50-FPN")]
    five, six, seven = (make(lab, records) for make in (searches.figure5, searches.figure6, searches.figure7))
    assert five.table.rows[0] == ("R18-FPN", "1", "2", "2 to 3")
    assert six.table.rows == (("prune channels", "5.00", "5.00", "6"), ("teacher", "1.00", "1.00", "2"))
    assert seven.table.rows[:2] == (("R18-FPN", "stem", "0.1", "0.1", "+0%"), ("R18-FPN", "stage 1", "0.4", "0.3", "-25%"))
    for result in (five, six, seven):
        assert result.svg.startswith("<?xml") and "R50-FPN" in result.svg


def comparison_record() -> dict[str, Any]:
    run = {"candidates": 3, "seconds": 3600.0, "flops_g": 1.5, "number": 2}
    runs = [run | {"method": method, "seed": seed, "ap": ap, "backbone_flops_g": cost} for method, seed, ap, cost in
            (("joint", 0, 0.4, 0.5), ("joint", 1, 0.42, 0.7), ("prune-kd", 0, 0.3, 0.6), ("prune-kd", 1, 0.3, 0.6),
             ("nas-prune-kd", 0, 0.35, 0.4), ("nas-prune-kd", 1, 0.35, 0.6), ("random", 0, 0.2, 0.9), ("random", 1, 0.3, 0.9))]  # fmt: skip
    base = {"ap": 0.25, "backbone_flops_g": 1.2}
    searched = [{"ap": ap, "backbone_flops_g": 1.0} for ap in (0.28, 0.32)]
    return {
        "model": "R18-FPN", "base": base, "runs": runs, "between": {"prune-kd": [base] * 2, "nas-prune-kd": searched},
        "before_seconds": 1800.0, "images": 2400, "judged_on": "50 validation images", "chosen_on": "50 validation images",
    }  # fmt: skip


def test_table_5_tells_what_pipelines_had_between() -> None:
    table = comparison.table5(lab_of(("a", "b")), [comparison_record()]).table
    assert table.rows == (
        ("R18-FPN-prune-KD", "1.2", "25.0", "0.6 (-50%)", "30.0 ± 0.0 (+5.0)"),
        ("NAS-prune-KD", "1", "30.0", "0.5 (-50%)", "35.0 ± 0.0 (+5.0)"),
        ("Joint (R18-FPN)", "-", "-", "0.6", "41.0 ± 1.4"),
    )
    assert "2,400 training images" in table.notes[0] and not any("base stands" in note for note in table.notes)
    beside = comparison.table5(lab_of(COCO, "paper"), [comparison_record()]).table
    assert [row[-1] for row in beside.rows] == ["122.6 / 39.0 / 60.8 / 42.1", "105.2 / 39.9 / 59.1 / 41.8", "- / - / 58.9 / 43.9"]


def test_table_7_counts_architectures_and_hours() -> None:
    record = comparison_record()
    record["runs"][-1]["number"] = 0
    table = comparison.table7(lab_of(("a", "b")), [record]).table
    assert table.columns[-1].startswith("Search cost (hours")
    assert table.rows == (("random", "1.5", "25.0 ± 7.1", "3", "1.5"), ("Joint (R18-FPN)", "1.5", "41.0 ± 1.4", "3", "1.5"))
    assert any("the base stands in the row" in note for note in table.notes)
    beside = comparison.table7(lab_of(COCO, "paper"), [record]).table
    assert beside.rows[1][-1] == "145.7 G, AP 43.9, 100, 200 GPU days" and beside.rows[2][0] == "Det-NAS"
