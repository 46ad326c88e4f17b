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


@pytest.mark.parametrize("change", [{"runtime": "ort-cuda"}, {"precision": "int8"}, {"batch": 4}])
def test_another_runtime_precision_or_batch_is_refused(table, tmp_path, change):
    replace(table, **change).save(tmp_path / "other.json")
    with pytest.raises(TargetError, match="of the same runtime, precision and batch only"):
        adapted_table(tmp_path / "other.json", BOARD)
