from typing import Any

import pytest

from jdnas.report.inputs import RunData
from jdnas.report.tiles import cell, flat, per_class, significant, table, tiles, verdict

BASE = {"ap": 0.231, "latency_ms": 20.0, "params_m": 28.4}
STUDENT = {"ap": 0.306, "latency_ms": 12.5, "params_m": 30.0}


def run(summary: dict[str, Any], **extra: Any) -> RunData:
    return RunData(summary, (), "latency_ms", extra)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (12.345, "12.3"), (999.6, "1,000"), (-4.0, "-4.00"), (123456.0, "123,456")],
)
def test_significant(value: float, text: str) -> None:
    assert significant(value) == text


def test_tiles_compare_the_student_with_both() -> None:
    shown = {t.name: t for t in tiles(run({"base": BASE, "student": STUDENT, "control": {**BASE, "ap": 0.31}}))}
    assert set(shown) == {"AP", "Latency", "FPS", "Parameters"}
    assert [(r.role, r.value, r.difference, r.verdict) for r in shown["AP"].rows] == [
        ("base", "23.1", "+7.5", "good"),
        ("control", "31.0", "−0.4", "bad"),
    ]
    latency, fps, params = shown["Latency"].rows[0], shown["FPS"].rows[0], shown["Parameters"].rows[0]
    assert (latency.difference, latency.verdict) == ("−38 %", "good")
    assert (shown["FPS"].value, fps.value, fps.difference, fps.verdict) == ("80.0", "50.0", "+60 %", "good")
    assert (params.difference, params.verdict) == ("+6 %", "bad")


def test_the_verdict_says_how_sure_a_ratio_is_and_what_disturbed_it() -> None:
    models = {"base": BASE, "student": STUDENT, "control": BASE}

    def said(**target: Any) -> str:
        return " ".join(verdict(run({**models, "target": target})))

    assert "0.63 of the base's (95 % interval 0.60 to 0.66): more than noise." in said(comparison={"ratio": 0.63, "low": 0.6, "high": 0.66})
    unsure = said(comparison={"ratio": 0.97, "low": 0.9, "high": 1.05}, disturbances=["other processes use 90 % of the CPU"])
    assert "interval 0.90 to 1.05), which these runs cannot tell from 1." in unsure
    assert "The measurement was disturbed: other processes use 90 % of the CPU. Measure again" in unsure
    assert "interval" not in said() and "disturbed" not in said(disturbances=[])


def test_fps_and_spread_as_measured() -> None:
    measured = {**STUDENT, "fps": 320.0, "latency_spread_ms": [12.1, 13.4]}
    shown = {t.name: t for t in tiles(run({"base": BASE, "student": measured}))}
    assert (shown["FPS"].value, shown["Latency"].spread, shown["AP"].spread) == ("320", "p5–p95: 12.1–13.4", "")


def test_equal_and_missing_figures() -> None:
    shown = {t.name: t for t in tiles(run({"base": BASE, "student": {**BASE, "ap": None}}))}
    assert shown["AP"].value == "–" and shown["AP"].rows[0].difference == ""
    assert (shown["Latency"].rows[0].difference, shown["Latency"].rows[0].verdict) == ("±0", "same")


def test_verdict_states_gain_control_and_speed() -> None:
    text = " ".join(verdict(run({"base": BASE, "student": STUDENT, "control": {"ap": 0.31}})))
    assert "AP 30.6; the base it started from, 23.1" in text
    assert "0.4 points below the control" in text
    assert "12.5 ms and the base 20.0 ms: 1.60 times as fast" in text


def test_one_ratio_of_latencies_that_of_turns_where_there_are_any() -> None:
    compared = {"comparison": {"ratio": 0.7, "low": 0.6, "high": 0.8}}
    text = " ".join(verdict(run({"base": BASE, "student": STUDENT, "target": compared})))
    assert "12.5 ms and the base 20.0 ms. Measured in turns, the student's latency is 0.70 of the base's" in text
    assert "times as fast" not in text


def test_verdict_does_not_hide_losses_or_a_missing_control() -> None:
    text = " ".join(verdict(run({"base": STUDENT, "student": BASE})))
    assert "60 % slower" in text and "no control" in text
    assert verdict(run({"base": BASE})) == ["This run has no student yet."]


def test_per_class_rows_are_sorted_by_the_student() -> None:
    data = {"base": {"fish": 0.2, "shark": 0.4}, "student": {"fish": 0.25, "shark": 0.1, "ray": float("nan")}}
    rows = per_class(run({}, per_class=data))
    assert [(r["name"], r["change"]) for r in rows] == [("fish", "+5.0"), ("shark", "−30.0"), ("ray", "")]
    assert rows[2]["cells"]["student"] == ("–", 0.0)


def test_table_and_flat() -> None:
    assert table([{"a_b": 1.23456, "x": None}, {"c": True, "a_b": 2}]) == (["a b", "c"], [["1.23", "–"], ["2", "yes"]])
    assert flat({"clocks": {"sm_mhz": 1980}, "box_px": 0.00002, "list": [1, 2]}) == [
        ("clocks: sm mhz", "1980"),
        ("box px", "2e-05"),
        ("list", "1, 2"),
    ]
    assert flat({"rows": [{"a": 1}], "empty": []}) == [("empty", "–")]
    assert cell(list(range(80))).endswith("18, 19, … (80 in all)")
    assert (cell(None), cell(0.0), cell([])) == ("–", "0", "–")
