from dataclasses import replace

import pytest

from jdnas.errors import TargetError
from jdnas.presets import scale_backbone
from latency import measure
from latency.blocks import REST, blocks_of
from latency.measure import measure_table
from latency.plan import TablePlan
from latency.predictor import Predictor
from latency.targets import Target
from latency.timing import Timing
from latency.transfer import adapted_table

from .conftest import formula_ms

BOARD = Target(name="my-board", device="cpu", runtime="ort-cpu")


def on_board(spec, size_hw):
    """A device whose convolutions are 2.5 times as slow and whose other steps 1.4 times."""
    return sum(count * formula_ms(block) * (1.4 if block.family == REST else 2.5) for block, count in blocks_of(spec, size_hw))


def test_a_few_engines_carry_a_table_to_another_device(table, spec, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(measure, "measure_engine", lambda case, target, folder: Timing(*(on_board(*case),) * 3, 5))
    table.save(tmp_path / "other.json")
    engines = [(scale_backbone(spec, factor), size) for factor in (1.0, 0.9, 0.75, 0.5) for size in ((64, 64), (96, 96))]
    start = adapted_table(tmp_path / "other.json", BOARD)
    path = tmp_path / "board.json"
    adapted = measure_table(BOARD, TablePlan((), tuple(engines)), budget_s=1e9, path=path, start=start)
    assert adapted.provenance["blocks_from"]["cpu"] == "test" and adapted.provenance["cpu"] != "test"
    unseen = [(scale_backbone(spec, factor), size) for factor in (0.85, 0.6) for size in ((64, 64), (96, 96))]
    for case in unseen:
        before = abs(Predictor(table).latency_ms(*case) / on_board(*case) - 1)
        after = abs(Predictor(adapted).latency_ms(*case) / on_board(*case) - 1)
        assert before > 0.3 and after < 0.03


@pytest.fixture
def adapt(table, spec, tmp_path, monkeypatch):
    """Adapt the table in other.json to a board on which nothing takes time to measure."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(measure, "measure_engine", lambda case, target, folder: Timing(9.0, 9.0, 9.0, 5))
    monkeypatch.setattr(measure, "measure_block", lambda block, target, folder: Timing(7.0, 7.0, 7.0, 5))
    source, path = tmp_path / "other.json", tmp_path / "board.json"
    table.save(source)
    engines = TablePlan((), ((spec, (64, 64)), (spec, (96, 96))))
    return lambda: measure_table(BOARD, engines, budget_s=1e9, path=path, start=adapted_table(source, BOARD)), source, path


def test_blocks_measured_here_replace_borrowed_ones(adapt, plan):
    adapted, _, path = adapt
    assert set(adapted().blocks) - set(plan.blocks[:2])
    measured = measure_table(BOARD, TablePlan(plan.blocks[:2], ()), budget_s=1e9, path=path)
    assert {block: timing.median_ms for block, timing in measured.blocks.items()} == dict.fromkeys(plan.blocks[:2], 7.0)
    assert "blocks_from" not in measured.provenance and len(measured.engines) == 2


def test_a_table_is_adapted_from_one_source_only(adapt, table, plan):
    adapted, source, path = adapt
    assert adapted().blocks.keys() == adapted().blocks.keys() == table.blocks.keys()
    table.provenance["cpu"] = "a third one"
    table.save(source)
    with pytest.raises(TargetError, match="board.json has blocks borrowed from another table; give another --out or delete the file"):
        adapted()
    measure_table(BOARD, TablePlan(plan.blocks[:2], ()), budget_s=1e9, path=path)
    with pytest.raises(TargetError, match="board.json has blocks measured here; give another --out"):
        adapted()


@pytest.mark.parametrize("change", [{"runtime": "ort-cuda"}, {"precision": "int8"}, {"batch": 4}])
def test_another_runtime_precision_or_batch_is_refused(table, tmp_path, change):
    replace(table, **change).save(tmp_path / "other.json")
    with pytest.raises(TargetError, match="of the same runtime, precision and batch only"):
        adapted_table(tmp_path / "other.json", BOARD)
