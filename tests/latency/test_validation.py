import io
import json
import math
from types import SimpleNamespace

import pytest
from rich.console import Console

from jdnas.cli.tables import validation_table
from jdnas.errors import TargetError
from jdnas.models.complexity import multiply_adds
from jdnas.presets import scale_backbone
from jdnas.report.scatter import scatter_svg
from latency import prepared, sentinel, validation
from latency.plan import case_name
from latency.predictor import Predictor
from latency.tables import EngineRow
from latency.targets import load_target
from latency.timing import Timing
from latency.validation import Pair, Validation, validate

CPU = load_target("cpu-ort")


def pair(spec, predicted, *measured):
    return Pair(spec, (64, 64), measured, predicted)


def test_figures_by_hand(spec):
    # The median of the rounds counts; of the first, the even rounds say 10.2 and the odd ones 9.8.
    pairs = (pair(spec, 10.4, 10.2, 9.8, 10.2, 9.8), pair(spec, 18.4, 20.0), pair(spec, 36.0, 30.0), pair(spec, 35.0, 40.0))
    figures = Validation("t", pairs, {}).figures()
    # Errors +4, -8, +20 and -12.5 %; of six pairs of engines one is in the wrong order.
    assert figures["mape"] == pytest.approx((0.04 + 0.08 + 0.2 + 0.125) / 4)
    assert (figures["within_5"], figures["within_10"], figures["engines"]) == (0.25, 0.5, 4)
    assert figures["kendall_tau"] == pytest.approx((5 - 1) / 6)
    assert figures["largest_error"] == pytest.approx(0.2)
    assert figures["noise"] == pytest.approx(10.2 / 9.8 - 1) and math.isnan(figures["noise_tau"])
    assert math.isnan(Validation("t", pairs[1:], {}).figures()["noise"])


def test_how_well_two_measurements_agree_on_the_order(spec):
    # Even rounds say 10, 11, 12 and odd ones 10.5, 13, 12.5: of three pairs of engines one is in another order.
    pairs = (pair(spec, 1, 10.0, 10.5), pair(spec, 2, 11.0, 13.0), pair(spec, 3, 12.0, 12.5))
    assert Validation("t", pairs, {}).figures()["noise_tau"] == pytest.approx((2 - 1) / 3)


class Log(list):
    slow: frozenset[int] = frozenset()


@pytest.fixture
def machine(monkeypatch, table, by_formula, tmp_path):
    """A machine that takes 1.2 times what the blocks say, and 5 ms more after as many measurements as `slow` says; what it measured."""
    log = Log()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(validation, "probe", lambda target: dict(table.provenance))

    class Engine:
        def __init__(self, case, target, folder):
            self.case = case

        def measure(self):
            log.append(self.case)
            return self.took(1.2 * by_formula(*self.case) * (1 + 0.01 * (len(log) % 2)))

        def glance(self, seconds):
            return self.took(by_formula(*self.case))

        def took(self, ms):
            ms += 5.0 if len(log) in log.slow else 0.0
            return Timing(ms, ms, ms, 5)

    monkeypatch.setattr(sentinel, "PreparedEngine", Engine)
    return log


@pytest.fixture
def students(spec):
    return [(scale_backbone(spec, factor), size) for factor in (1.0, 0.75, 0.5) for size in ((64, 64), (96, 96))]


def test_multiply_adds_are_held_against_the_same_engines(students):
    # By multiply-adds, which fall from the first to the last two; the measurements put the second before the first.
    cases = [students[1], students[3], students[5]]
    assert [multiply_adds(*case) for case in cases] == sorted((multiply_adds(*case) for case in cases), reverse=True)
    pairs = tuple(Pair(*case, (ms,), ms) for case, ms in zip(cases, (2.0, 3.0, 1.0), strict=True))
    figures = Validation("t", pairs, {}).figures()
    assert figures["kendall_tau"] == 1.0 and figures["flops_tau"] == pytest.approx(1 / 3)


def test_engines_that_were_fitted_to_are_left_out(machine, table, students, by_formula, tmp_path):
    ms = 1.2 * by_formula(*students[0])
    table.engines.append(EngineRow(*students[0], Timing(ms, ms, ms, 5)))
    result = validate(CPU, table, students, budget_s=1e9, path=tmp_path / "v.json")
    assert [(p.spec, p.size_hw) for p in result.pairs] == students[1:]
    assert students[0] not in machine
    figures = result.figures()
    assert figures["mape"] < 0.02 and figures["within_5"] == 1.0
    assert 0 < figures["noise"] < 0.011
    assert result.pairs[0].predicted_ms == Predictor(table).latency_ms(*students[1])


def test_what_was_measured_is_not_measured_again(machine, table, students, tmp_path):
    path = tmp_path / "v.json"
    ticks = iter(range(1000))
    validate(CPU, table, students, budget_s=5, path=path, clock=lambda: next(ticks))
    first = list(machine)
    assert 0 < len(first) < len(students)  # a first round over all engines comes before the second one
    progress = []
    result = validate(CPU, table, students, budget_s=1e9, path=path, on_progress=lambda *step: progress.append(step))
    assert sorted(map(machine.count, students)) == [4] * len(students)
    assert machine[: len(students)] == students and len(result.pairs) == len(students)
    assert progress[-1] == (4 * len(students), 4 * len(students), "engine")
    machine.clear()
    validate(CPU, table, students, budget_s=0, path=path)
    assert not machine
    validate(CPU, table, students, budget_s=1e9, path=path, rounds=6)
    assert sorted(map(machine.count, students)) == [2] * len(students)
    kept = json.loads(path.read_text())
    assert kept["figures"]["engines"] == len(students)


@pytest.fixture
def slow_for_three(machine, students):
    """In each of the four rounds a slow spell meets the last three of six engines."""
    machine.slow = {turn * len(students) + place for turn in range(4) for place in (4, 5)}
    return machine


def test_what_a_slow_spell_met_does_not_count_and_is_measured_again(slow_for_three, table, students, tmp_path):
    result = validate(CPU, table, students, budget_s=1e9, path=tmp_path / "v.json")
    assert [slow_for_three.count(case) for case in students] == [4, 4, 4, 6, 6, 6]
    assert [len(pair.measured_ms) for pair in result.pairs] == [4, 4, 4, 2, 2, 2]
    figures = result.figures()
    assert figures["largest_error"] < 0.2 and figures["left_out"] == 0 and figures["slow"] == pytest.approx(12 / 30)


def test_engines_that_only_slow_spells_met_are_left_out(slow_for_three, table, students, tmp_path):
    ticks = iter(range(1000))
    result = validate(CPU, table, students, budget_s=4 * len(students), path=tmp_path / "v.json", clock=lambda: next(ticks))
    assert [(pair.spec, pair.size_hw) for pair in result.pairs] == students[:3] and result.figures()["left_out"] == 3


def test_problems(machine, table, students, tmp_path):
    path = tmp_path / "v.json"
    with pytest.raises(TargetError, match="only 0 engines were measured, at least 3 are needed"):
        validate(CPU, table, students, budget_s=-1, path=path)
    path.write_text("{")
    with pytest.raises(TargetError, match="is not a validation that jdnas wrote"):
        validate(CPU, table, students, budget_s=1, path=path)
    path.write_text(json.dumps({"target": "other", "readings": [], "provenance": {}}))
    with pytest.raises(TargetError, match="holds a validation of 'other', not of 'cpu-ort'"):
        validate(CPU, table, students, budget_s=1, path=path)
    table.provenance["threads"] = 5
    path.unlink()
    with pytest.raises(TargetError, match="package 'tensorrt'"):
        validate(load_target("t4-trt"), table, students, budget_s=1, path=path)
    assert not path.exists()


def test_a_table_of_another_machine_is_not_validated_here(machine, table, students, tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "probe", lambda target: {**table.provenance, "cpu": "another"})
    with pytest.raises(TargetError, match="the table of 'cpu-ort' was measured with cpu 'test', here it is 'another'"):
        validate(CPU, table, students, budget_s=1, path=tmp_path / "v.json")


@pytest.fixture
def kept(machine, table, students, tmp_path):
    """The file of a whole validation of all students but the smallest."""
    path = tmp_path / "v.json"
    validate(CPU, table, students[:-2], budget_s=1e9, path=path)
    return path


def test_readings_beside_another_sentinel_are_refused(kept, table, students):
    smallest, other = (case_name(students[index]) for index in (-2, 2))
    with pytest.raises(TargetError, match=f"measured beside the engine '{other}', here the smallest is '{smallest}'; give another --out"):
        validate(CPU, table, students, budget_s=1e9, path=kept)


@pytest.mark.parametrize(("key", "value"), [("cpu", "another"), ("threads", 99), ("runtime_version", "0.1")])
def test_readings_of_another_machine_are_refused(kept, table, students, key, value):
    data = json.loads(kept.read_text())
    data["provenance"][key] = value
    kept.write_text(json.dumps(data))
    with pytest.raises(TargetError, match=f"validation .*v.json was measured with {key} {value!r}, here it is"):
        validate(CPU, table, students[:-2], budget_s=1e9, path=kept)


def test_the_disturbances_of_today_are_kept(kept, table, students, monkeypatch):
    monkeypatch.setattr(validation, "look_around", lambda gpu: SimpleNamespace(warnings=["a neighbour"]))
    assert validate(CPU, table, students[:-2], budget_s=0, path=kept).provenance["disturbances"] == ["a neighbour"]
    assert json.loads(kept.read_text())["provenance"]["sentinel"] == case_name(students[2])


def test_a_table_that_knows_all_engines_is_not_validated(machine, table, students, tmp_path):
    table.engines += [EngineRow(*case, Timing(1.0, 1.0, 1.0, 5)) for case in students]
    with pytest.raises(TargetError, match="the table of 'cpu-ort' was fitted to all of the 6 engines; ask for more with --count"):
        validate(CPU, table, students, budget_s=1, path=tmp_path / "v.json")


def test_engines_are_exported_once_also_where_no_folder_is_named(table, students, tmp_path, monkeypatch):
    exported = []

    def export(target, spec, state, *, path, **_):
        exported.append(path)
        path.write_bytes(b"")

    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(validation, "probe", lambda target: dict(table.provenance))
    monkeypatch.setattr(prepared, "export_for", export)
    monkeypatch.setattr(prepared, "open_session", lambda *_, **__: SimpleNamespace(bind=lambda feeds: None, close=lambda: None))
    for name in ("steadiest", "time_call"):
        monkeypatch.setattr(prepared, name, lambda call, *, seconds: Timing(1.0, 1.0, 1.0, 5))
    validate(CPU, table, students[2:], budget_s=1e9, path=tmp_path / "v.json")
    assert len(exported) == len(students[2:]) and not any(path.exists() for path in exported)


def test_every_measurement_is_a_session_of_its_own(spec, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(prepared, "export_for", lambda target, spec, state, *, path, **_: path.write_bytes(b""))
    session = SimpleNamespace(bind=lambda feeds: None, close=lambda: None)
    monkeypatch.setattr(prepared, "open_session", lambda *_, **__: opened.append(1) or session)
    monkeypatch.setattr(prepared, "steadiest", lambda call, *, seconds: Timing(1.0, 1.0, 1.0, 5))
    monkeypatch.setattr(prepared, "time_call", lambda call, *, seconds: Timing(2.0, 2.0, 2.0, 5))
    own = sentinel.Sentinel((spec, (64, 64)), CPU, tmp_path)
    assert [own.reading_of((spec, (96, 96))) for _ in range(2)] == [sentinel.Reading(1.0, 2.0)] * 2
    assert len(opened) == 6  # and so is every look at the sentinel


def test_figures_that_cannot_be_told(spec):
    result = Validation("t", tuple(pair(spec, 10.4, 10.0) for _ in range(3)), {})
    figures = result.to_dict()["figures"]
    assert figures["noise"] is None and figures["kendall_tau"] is None
    json.dumps(result.to_dict(), allow_nan=False)
    assert "Kendall tau unknown" in scatter_svg(result.to_dict())
    shown = Console(width=132, file=io.StringIO())
    shown.print(validation_table(result))
    assert shown.file.getvalue().count("unknown") == 4


def test_scatter(spec):
    svg = scatter_svg(Validation("my <box>", (pair(spec, 10.4, 10.0), pair(spec, 18.4, 20.0), pair(spec, 36.0, 30.0)), {}).to_dict())
    assert svg.count("<circle") == 3 and "my &lt;box&gt;: 3 engines" in svg
    import xml.etree.ElementTree as ElementTree

    ElementTree.fromstring(svg)
