import json
from collections import Counter

import pytest
from onnx import helper

from jdnas.errors import TargetError
from jdnas.spec import DetectorSpec, Head, Stage
from latency import block_calls, measure, prepared, timing
from latency.blocks import REST, Block, blocks_of
from latency.measure import in_turns, measure_block, measure_table, prepare
from latency.plan import TablePlan, plan_table, rest_spec
from latency.predictor import Predictor
from latency.prepared import PreparedEngine
from latency.targets import load_target
from latency.timing import Timing, steadiest

CPU = load_target("cpu-ort")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Names of what would have been measured, in order."""
    log = []
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(measure, "measure_block", lambda block, target, folder: log.append(block) or Timing(1.0, 1.0, 1.1, 5))
    monkeypatch.setattr(measure, "measure_engine", lambda case, target, folder: log.append(case) or Timing(9.0, 9.0, 9.1, 5))
    return log


def test_plan_covers_the_space_first_a_row_of_each_family(cases, plan):
    assert len(plan.blocks) == len(set(plan.blocks))
    needed = {block for case in plan.engines for block, _ in blocks_of(*case)}
    assert needed <= set(plan.blocks)
    families = [block.family for block in plan.blocks]
    kinds = len({block.family for block in needed if block.family != REST})
    assert len(set(families[:kinds])) == kinds
    assert families[kinds] == REST


def test_the_core_comes_before_its_narrower_versions_and_the_students(cases, spec):
    student = spec.with_stage(1, Stage(24, (16, 24)))
    plan = plan_table(cases, [(student, (64, 64))], [])
    core = {block for case in cases for block, _ in blocks_of(*case)}
    own = {block for block, _ in blocks_of(student, (64, 64))} - core
    places = {block: index for index, block in enumerate(plan.blocks)}
    firsts = len({block.family for block in plan.blocks})
    late = [places[block] for block in own if places[block] >= firsts]
    assert late and max(places[block] for block in core) < min(late)


def test_engines_are_not_repeated(cases):
    assert plan_table(cases, [], [*cases, *cases]).engines == tuple(cases)


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
    monkeypatch.setattr(timing, "time_call", lambda call, *, seconds, warmup: Timing(next(medians), 1.0, 10.0, 5))
    assert steadiest(lambda: None, seconds=0.1).median_ms == 2.0


def test_runs_continue_where_they_stopped(measured, plan, tmp_path):
    path = tmp_path / "table.json"
    ticks = iter(range(1000))
    part = measure_table(CPU, plan, budget_s=40, path=path, clock=lambda: next(ticks))
    first = list(measured)
    assert 0 < len(first) < len(plan.blocks)
    assert len(json.loads(path.read_text())["blocks"]) >= 1
    measured.clear()
    progress = []
    full = measure_table(CPU, plan, budget_s=1e9, path=path, on_progress=lambda *step: progress.append(step))
    missing = [task for task in (*plan.blocks, *plan.engines) if task not in first]
    assert set(measured[: len(missing)]) == set(missing)  # what is missing comes before a second round
    assert {measured.count(task) for task in missing} == {measure.ROUNDS} and full.provenance["rounds"] == measure.ROUNDS
    assert set(part.blocks) < set(full.blocks) == set(plan.blocks)
    assert {(row.spec, row.size_hw) for row in full.engines} == set(plan.engines)
    assert progress[-1][0] == progress[-1][1]
    assert full.provenance["spread"] == pytest.approx(1.1)
    measured.clear()
    measure_table(CPU, plan, budget_s=1e9, path=path)
    assert not measured


def test_the_least_of_the_rounds_counts(monkeypatch, plan, cases, tmp_path):
    fast = {0: 3.0, 1: 2.0, 2: 4.0}
    asked = Counter()

    def timing(task):
        asked[task] += 1
        return Timing(fast[asked[task] - 1], 1.0, 5.0, 5)

    monkeypatch.setattr(measure, "probe", lambda target: {"cpu": "test"})
    monkeypatch.setattr(measure, "measure_block", lambda block, target, folder: timing(block))
    monkeypatch.setattr(measure, "measure_engine", lambda case, target, folder: timing(case))
    ticks = iter(range(100_000))
    path, small = tmp_path / "table.json", TablePlan(plan.blocks[:4], plan.engines[:2])
    once = measure_table(CPU, small, budget_s=16, path=path, clock=lambda: next(ticks))  # two readings of the clock for each task
    assert once.provenance["rounds"] == 1 and {timing.median_ms for timing in once.blocks.values()} >= {3.0}
    table = measure_table(CPU, small, budget_s=1e9, path=path)
    assert table.provenance["rounds"] == 3
    assert {timing.median_ms for timing in table.blocks.values()} == {row.timing.median_ms for row in table.engines} == {2.0}
    assert len(table.engines) == 2


def test_repetitions_go_on_where_they_stopped(measured, plan, tmp_path):
    path, small = tmp_path / "table.json", TablePlan(plan.blocks[:4], plan.engines[:2])
    ticks = iter(range(100_000))
    measure_table(CPU, small, budget_s=16, path=path, clock=lambda: next(ticks))
    for _ in range(4):  # each time too short for a round
        measure_table(CPU, small, budget_s=9, path=path, clock=lambda: next(ticks))
    assert {measured.count(task) for task in (*small.blocks, *small.engines)} == {measure.ROUNDS}
    assert json.loads(path.read_text())["provenance"]["rounds"] == measure.ROUNDS


def test_engines_come_among_the_first_quarter_of_the_blocks(cases):
    blocks = [Block("linear", (8, 8, 1, 1, rows)) for rows in range(64)]
    tasks = in_turns(blocks, [*cases, cases[0]])
    assert [task for task in tasks if isinstance(task, Block)] == blocks
    assert [index for index, task in enumerate(tasks) if not isinstance(task, Block)] == [4, 11, 18]
    assert in_turns(blocks, []) == blocks and in_turns([], cases) == list(cases)


def test_a_short_budget_gives_a_usable_table(measured, plan, tmp_path, spec):
    ticks = iter(range(1000))
    part = measure_table(CPU, plan, budget_s=60, path=tmp_path / "table.json", clock=lambda: next(ticks))
    assert part.engines and len(part.blocks) < 0.3 * len(plan.blocks)
    assert Predictor(part).latency_ms(spec, (64, 64)) > 0


def test_what_was_measured_survives_a_crash(measured, plan, tmp_path, monkeypatch):
    path = tmp_path / "table.json"

    def fail(block, target, folder):
        if len(measured) == 4:
            raise KeyboardInterrupt
        measured.append(block)
        return Timing(1.0, 1.0, 1.0, 5)

    monkeypatch.setattr(measure, "measure_block", fail)
    with pytest.raises(KeyboardInterrupt):
        measure_table(CPU, plan, budget_s=1e9, path=path)
    assert sum(map(len, json.loads(path.read_text())["blocks"].values())) == 4


@pytest.mark.parametrize(("key", "value"), [("cpu", "another"), ("threads", 99), ("runtime_version", "0.1")])
def test_a_table_of_another_machine_is_not_continued(measured, plan, tmp_path, key, value):
    path = tmp_path / "table.json"
    table = measure_table(CPU, TablePlan(plan.blocks[:3], ()), budget_s=1e9, path=path)
    table.provenance[key] = value
    table.save(path)
    with pytest.raises(TargetError, match=f"measured with {key} {value!r}, here it is"):
        measure_table(CPU, plan, budget_s=1e9, path=path)


def test_runtimes_that_cannot_be_measured(tmp_path, plan):
    with pytest.raises(TargetError, match="target 't4-trt' cannot be measured here: package 'tensorrt' is not installed"):
        measure_table(load_target("t4-trt"), plan, budget_s=1.0, path=tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_tables_are_of_one_image(measured, tmp_path, plan):
    with pytest.raises(TargetError, match="target 'cpu-ort' has a batch of 4: tables are measured at batch 1; give a target with batch: 1"):
        measure_table(CPU.model_copy(update={"batch": 4}), plan, budget_s=1.0, path=tmp_path / "x.json")
    assert not measured


def test_engines_are_exported_once(spec, tmp_path, monkeypatch):
    exported = []

    def export(target, spec, state, *, path, **_):
        exported.append(path)
        path.write_bytes(b"engine")

    monkeypatch.setattr(prepared, "export_for", export)
    for _ in range(2):
        PreparedEngine((spec, (64, 96)), CPU, tmp_path)
    assert [path.name for path in exported] == [f"{spec.key}_96x64_b1.onnx"]


def test_engines_are_exported_once_a_run_also_where_no_folder_is_named(measured, plan, tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr(measure, "measure_engine", lambda case, target, folder: folders.append(folder) or Timing(9.0, 9.0, 9.1, 5))
    measure_table(CPU, TablePlan(plan.blocks[:2], plan.engines[:2]), budget_s=1e9, path=tmp_path / "table.json")
    assert len(folders) == 2 * measure.ROUNDS and len(set(folders)) == 1
    assert not folders[0].exists()


def test_prepare_exports_rests_and_engines_and_measures_nothing(measured, plan, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(prepared, "export_for", lambda target, spec, state, *, path, **_: made.append(path.name))
    monkeypatch.setattr(block_calls, "rest_graph", lambda spec, size_hw, **_: helper.make_model(helper.make_graph([], "rest", [], [])))
    prepare(plan, CPU, tmp_path)
    rests = [block for block in plan.blocks if block.family == REST]
    assert len(made) == len(plan.engines)
    assert len(list(tmp_path.glob("rest_*.onnx"))) == len(rests) > 0
    assert not measured


@pytest.mark.slow
def test_prepare_in_two_processes(tmp_path):
    from export.runners import open_runner

    stages = tuple(Stage(8, (8,)) for _ in range(4))
    head = Head(width=8, rpn_width=8, candidates=8, proposals=8, train_candidates=8, train_proposals=8)
    tiny = DetectorSpec("resnet_basic", 8, stages, 2, neck=8, head=head)
    plan = TablePlan((), tuple((tiny, (64, side)) for side in (64, 96)))
    progress = []
    prepare(plan, CPU, tmp_path / "engines", jobs=2, on_progress=lambda *step: progress.append(step))
    assert progress == [(1, 2, "export"), (2, 2, "export")]
    sizes = []
    for path in (tmp_path / "engines").glob("*.onnx"):
        with open_runner(path) as runner:
            sizes.append(runner.metadata.size_hw)
    assert sorted(sizes) == [(64, 64), (64, 96)]
