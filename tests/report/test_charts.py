import json
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jdnas.report import charts
from jdnas.report.analysis import action_rows, pareto_front
from jdnas.report.inputs import RunData, read_run
from jdnas.report.stages import parts_chart

FIGURES = (charts.accuracy_against_cost, charts.history, charts.action_gains, charts.capacity, charts.training_curves, parts_chart)


def run_of(tmp_path: Path, trials: list[dict[str, Any]], summary: dict[str, Any] | None = None, **extra: Any) -> RunData:
    (tmp_path / "summary.json").write_text(json.dumps(summary or {}))
    (tmp_path / "report_data.json").write_text(json.dumps({"trials": trials, "cost_name": "latency_ms", **extra}))
    return read_run(tmp_path)


def trial(number: int, parent: int | None, ap: float | None, cost: float, score: float | None, **more: Any) -> dict[str, Any]:
    action = {"kind": "add_layer", "stage": 1, "position": -1}
    return {"number": number, "parent": parent, "action": action, "ap": ap, "cost": cost, "score": score, "state": "complete", **more}


@pytest.fixture
def small(tmp_path: Path) -> RunData:
    rows = [
        trial(0, None, 0.20, 10.0, 0.20, action=None, choice="base", lineage=True),
        trial(1, 0, 0.19, 11.0, 0.18),
        trial(2, 0, None, 9.0, None, state="refused", reason="cannot win"),
        trial(3, 0, 0.22, 9.0, 0.23, lineage=True),
        trial(4, 3, 0.21, 9.0, 0.21, action=None, choice="teacher"),
        trial(5, 3, None, 9.0, None, state="failed"),
    ]
    return run_of(tmp_path, rows, {"control": {"ap": 0.21}})


def named(figure: dict[str, Any] | None, name: str) -> dict[str, Any]:
    assert figure is not None
    return next(t for t in figure["data"] if t["name"] == name)


def test_control_and_polished_student_stand_where_they_were_measured(small: RunData, tmp_path: Path) -> None:
    polished = trial(3, 0, 0.25, 9.5, 0.26, lineage=True)
    rows = json.loads((tmp_path / "report_data.json").read_text())["trials"]
    figure = charts.accuracy_against_cost(run_of(tmp_path, rows, {"control": {"ap": 0.21}}, delivered=polished, control_cost=12.0))
    assert (named(figure, "control")["x"], named(figure, "control")["y"]) == ([12.0], [21.0])
    assert (named(figure, "student")["x"], named(figure, "student")["y"]) == ([9.5], [25.0])
    assert 22.0 in named(figure, "candidate")["y"] and 22.0 not in named(charts.accuracy_against_cost(small), "candidate")["y"]


def test_only_the_score_of_a_search_without_a_goal_is_called_h(tmp_path: Path) -> None:
    rows = [trial(0, None, 0.2, 10.0, 0.2, action=None), trial(1, 0, 0.2, 9.0, 0.21)]
    for summary, name in (({}, "H"), ({"search": {"goal": {"mode": "max_cost"}}}, "score")):
        run = run_of(tmp_path, rows, summary)
        titles = [make(run)["layout"]["yaxis"]["title"]["text"] for make in (charts.history, charts.action_gains)]
        assert titles == [f"{name} × 100", f"gain in {name} × 100 over its parent"]


def test_all_figures_of_a_full_run_are_valid_plotly(full_run: Path) -> None:
    run = read_run(full_run)
    for make in FIGURES:
        figure = make(run)
        assert figure is not None, make.__name__
        text = json.dumps(figure)
        go.Figure(json.loads(re.sub(r"var\(--[\w-]+\)", "#123456", text)))


def test_every_colour_is_defined_for_both_themes(full_run: Path) -> None:
    css = (Path(charts.__file__).parent / "templates/report.css").read_text()
    light, dark = css.split("[data-theme", 1)
    used = set(re.findall(r"var\((--[\w-]+)\)", json.dumps([make(read_run(full_run)) for make in FIGURES])))
    assert {"--student", "--base", "--control", "--teacher"} <= used
    assert {name for name in used if f"{name}:" not in light or f"{name}:" not in dark} == set()


def test_cost_chart_marks_base_student_control_and_front(small: RunData) -> None:
    figure = charts.accuracy_against_cost(small)
    assert (named(figure, "base")["x"], named(figure, "base")["y"]) == ([10.0], [20.0])
    assert (named(figure, "student")["x"], named(figure, "student")["y"]) == ([9.0], [22.0])
    assert (named(figure, "control")["x"], named(figure, "control")["y"]) == ([10.0], [21.0])
    assert named(figure, "Pareto front")["x"] == [9.0]
    assert named(figure, "candidate")["x"] == [11.0, 9.0]
    assert named(figure, "lineage")["x"] == [10.0, 9.0]


def test_candidates_are_ticked_in_whole_numbers(small: RunData) -> None:
    for figure in (charts.history(small), charts.action_gains(small)):
        assert figure is not None and figure["layout"]["xaxis"]["dtick"] == 1


def test_multiply_adds_are_shown_in_billions(tmp_path: Path) -> None:
    run = run_of(
        tmp_path, [trial(0, None, 0.2, 3e9, 0.2, lineage=True), trial(1, 0, 0.3, 2e9, 0.3, lineage=True)], cost_name="multiply_adds"
    )
    figure = charts.accuracy_against_cost(run)
    assert named(figure, "student")["x"] == [2.0]
    assert figure is not None and figure["layout"]["xaxis"]["title"]["text"] == "multiply-adds (G)"


def test_history_has_the_best_so_far_and_the_missed(small: RunData) -> None:
    figure = charts.history(small)
    assert named(figure, "best so far")["y"] == [20.0, 20.0, 23.0, 23.0]
    assert named(figure, "teacher step")["x"] == [4.0]
    assert named(figure, "student step")["x"] == [0.0, 1.0, 3.0]
    assert (named(figure, "refused")["x"], named(figure, "failed")["x"]) == ([2.0], [5.0])
    assert named(figure, "refused")["y"][0] < 18.0


def test_gains_are_against_the_parent(small: RunData) -> None:
    figure = charts.action_gains(small)
    assert named(figure, "add layer")["y"] == pytest.approx([-2.0, 3.0])
    assert named(figure, "teacher")["y"] == pytest.approx([-2.0])
    rows = {row.action: row for row in action_rows(small)}
    assert (rows["add_layer"].tried, rows["add_layer"].evaluated, rows["add_layer"].helped) == (4, 2, 1)
    assert rows["add_layer"].mean_gain == pytest.approx(0.5)


def test_hover_says_what_was_done_and_escapes(tmp_path: Path) -> None:
    action = {"kind": "prune_channels", "stage": -1, "ratio": 0.08}
    rows = [trial(7, 3, 0.25, 9.5, 0.26, action=action, best_size=[320, 480], reason="<img src=x>")]
    text = charts.hover(run_of(tmp_path, rows).candidates[0], "latency_ms")
    for part in ("candidate 7", "prune channels", "8 % of the channels", "from candidate 3", "AP 25.00 at 320×480", "latency (ms): 9.500"):
        assert part in text
    assert "<img" not in text


@pytest.mark.parametrize("make", FIGURES)
def test_nothing_to_draw_gives_no_figure(tmp_path: Path, make: Any) -> None:
    assert make(run_of(tmp_path, [])) is None
    assert make(run_of(tmp_path, [trial(0, None, None, 1.0, float("nan"))])) is None


def test_curves_are_thinned_and_skip_what_is_not_finite(tmp_path: Path) -> None:
    points = [[step, float("nan") if step == 3 else 1.0] for step in range(5000)]
    figure = charts.training_curves(run_of(tmp_path, [], curves={"base": points, "pool": [[1, 2]]}))
    assert figure is not None and [t["name"] for t in figure["data"]] == ["base"]
    assert len(figure["data"][0]["x"]) < 500 and 3 not in figure["data"][0]["x"]


POINTS = st.lists(st.tuples(st.integers(0, 20).map(float), st.integers(0, 20).map(float)), min_size=1, max_size=30)


@given(POINTS)
def test_pareto_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    def beaten(p: tuple[float, float]) -> bool:
        return any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)

    assert pareto_front(points) == sorted({p for p in points if not beaten(p)})
