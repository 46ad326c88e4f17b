import json

import pytest

from jdnas.errors import TargetError
from latency.predictor import Predictor
from latency.tables import EngineRow, load_table, read_table
from latency.targets import load_target
from latency.timing import Timing


@pytest.fixture
def saved(table, spec, tmp_path):
    table.engines.append(EngineRow(spec, (64, 64), Timing(12.0, 11.0, 13.0, 20)))
    path = tmp_path / "table.json"
    table.save(path)
    return path


def test_round_trip(saved, table):
    again = read_table(saved)
    assert again.provenance == table.provenance
    assert again.engines == table.engines
    assert again.blocks.keys() == table.blocks.keys()
    assert all(again.blocks[block].median_ms == pytest.approx(timing.median_ms, rel=1e-3) for block, timing in table.blocks.items())


def _edited(path, edit):
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    return path


def _set_first_row(data, column, value):
    next(iter(data["blocks"].values()))[0][column] = value


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(version=99), "has version 99; this jdnas reads version 1"),
        (lambda d: d.pop("provenance"), "malformed: 'provenance'"),
        (lambda d: _set_first_row(d, -4, float("nan")), "nan.* instead of four positive numbers"),
        (lambda d: _set_first_row(d, -4, -1.0), "-1.0.* instead of four positive numbers"),
        (lambda d: next(iter(d["blocks"].values()))[0].pop(), "has 8 entries instead of 9"),
        (lambda d: d["engines"][0].update(spec={}), "spec version None"),
        (lambda d: d.update(blocks=[]), "malformed"),
    ],
)
def test_malformed_tables(saved, edit, message):
    with pytest.raises(TargetError, match=message):
        read_table(_edited(saved, edit))


def test_truncated_and_missing(saved, tmp_path):
    saved.write_text(saved.read_text()[:-20])
    with pytest.raises(TargetError, match="truncated or not JSON"):
        read_table(saved)
    saved.write_text("[]")
    with pytest.raises(TargetError, match="has version 'list'"):
        read_table(saved)
    with pytest.raises(TargetError, match="does not exist"):
        read_table(tmp_path / "none.json")


def test_table_of_this_machine_replaces_the_shipped_one(table):
    target = load_target("cpu-ort")
    assert load_table(target).provenance["cpu"] != "test"
    table.save(target.table_path)
    assert load_table(target).provenance["cpu"] == "test"


def test_table_of_another_target(table):
    target = load_target("cpu-ort")
    table.precision = "int8"
    table.save(target.table_path)
    with pytest.raises(TargetError, match="is of cpu-ort ort-cpu int8 1, not of cpu-ort ort-cpu fp32 1"):
        load_table(target)


def test_table_of_another_number_of_threads(table):
    target = load_target("cpu-ort")
    table.save(target.table_path)
    assert load_table(target.model_copy(update={"threads": 1})).provenance["threads"] == 1
    with pytest.raises(TargetError, match="cpu-ort.json was measured with 1 threads, target 'cpu-ort' has 2"):
        load_table(target.model_copy(update={"threads": 2}))


def test_shipped_table():
    path = load_target("cpu-ort").shipped_table_path
    shipped = read_table(path)
    assert path.stat().st_size < 300_000
    assert shipped.provenance["threads"] >= 1
    assert len(shipped.engines) >= 6
    predictor = Predictor(shipped)
    for row in shipped.engines:
        assert predictor.latency_ms(row.spec, row.size_hw) == pytest.approx(row.timing.median_ms, rel=0.25)
