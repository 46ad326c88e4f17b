import json

import pytest

from jdnas.errors import TargetError
from latency import measure
from latency.blocks import REST, Block, blocks_of
from latency.measure import measure_block, measure_table
from latency.plan import planned_blocks, planned_engines, rest_spec
from latency.targets import load_target
from latency.timing import Timing

CPU = load_target("cpu-ort")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Names of what would have been measured, in order."""
    log = []
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(measure, "measure_block", lambda block, target: log.append(block) or Timing(1.0, 1.0, 1.1, 5))
    monkeypatch.setattr(measure, "measure_engine", lambda case, target: log.append(case) or Timing(9.0, 9.0, 9.1, 5))
    return log


def test_plan_covers_the_cases_first_a_row_of_each_family(cases):
    blocks = planned_blocks(cases)
    assert len(blocks) == len(set(blocks))
    needed = {block for case in cases for block, _ in blocks_of(*case)}
    assert needed <= set(blocks)
    families = [block.family for block in blocks]
    kinds = len({block.family for block in needed if block.family != REST})
    assert len(set(families[:kinds])) == kinds
    assert families[kinds] == REST


def test_plan_of_engines_is_bounded_and_distinct(cases):
    engines = planned_engines(cases, 5)
    assert len(engines) == len(set(engines)) == 5


def test_spec_of_a_rest_has_that_rest():
    block = Block(REST, (64, 96, 40, 30, 20, 48, 5))
    assert block in dict(blocks_of(rest_spec(block), (64, 96)))


def test_a_block_is_measured():
    timing = measure_block(Block("conv 3x3/1", (8, 8, 8, 8, 1)), CPU)
    assert 0 < timing.p5_ms <= timing.median_ms <= timing.p95_ms
    larger = measure_block(Block("conv 3x3/1", (64, 64, 32, 32, 1)), CPU)
    assert larger.median_ms > 2 * timing.median_ms


def test_the_least_disturbed_window_counts(monkeypatch):
    medians = iter([5.0, 9.0, 2.02, 7.0, 2.0, 6.0, 3.0, 4.0, 5.0, 2.01, 1.0])
    monkeypatch.setattr(measure, "time_call", lambda call, *, seconds, warmup: Timing(next(medians), 1.0, 10.0, 5))
    assert measure.steadiest(lambda: None, seconds=0.1).median_ms == 2.0


def test_runs_continue_where_they_stopped(measured, cases, tmp_path):
    path = tmp_path / "table.json"
    ticks = iter(range(1000))
    part = measure_table(CPU, cases, budget_s=40, path=path, clock=lambda: next(ticks))
    first = list(measured)
    assert 0 < len(first) < len(planned_blocks(cases))
    assert len(json.loads(path.read_text())["blocks"]) >= 1
    measured.clear()
    progress = []
    full = measure_table(CPU, cases, budget_s=1e9, path=path, engines=3, on_progress=lambda *step: progress.append(step))
    assert not set(first) & set(measured)
    assert set(part.blocks) < set(full.blocks) == set(planned_blocks(cases))
    assert len(full.engines) >= 3
    assert progress[-1][0] == progress[-1][1]
    assert full.provenance["spread"] == pytest.approx(1.1)


def test_what_was_measured_survives_a_crash(measured, cases, tmp_path, monkeypatch):
    path = tmp_path / "table.json"

    def fail(block, target):
        if len(measured) == 4:
            raise KeyboardInterrupt
        measured.append(block)
        return Timing(1.0, 1.0, 1.0, 5)

    monkeypatch.setattr(measure, "measure_block", fail)
    with pytest.raises(KeyboardInterrupt):
        measure_table(CPU, cases, budget_s=1e9, path=path)
    assert sum(map(len, json.loads(path.read_text())["blocks"].values())) == 4


def test_a_table_of_another_machine_is_not_continued(measured, cases, tmp_path):
    path = tmp_path / "table.json"
    table = measure_table(CPU, cases, budget_s=1e9, path=path, engines=0)
    table.provenance["cpu"] = "another"
    table.save(path)
    with pytest.raises(TargetError, match="measured with cpu 'another'"):
        measure_table(CPU, cases, budget_s=1e9, path=path)


def test_runtimes_that_cannot_be_measured(tmp_path, cases):
    with pytest.raises(TargetError, match="runtime 'tensorrt' of target 't4-trt' cannot be measured here"):
        measure_table(load_target("t4-trt"), cases, budget_s=1.0, path=tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()
