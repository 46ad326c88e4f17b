import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jdnas.errors import TargetError
from jdnas.presets import preset, scale_backbone
from jdnas.spec import Stage
from latency.blocks import Block, blocks_of
from latency.family_model import FamilyModel
from latency.fits import nonnegative_fit
from latency.predictor import Predictor
from latency.tables import EngineRow, LatencyTable
from latency.timing import Timing


def test_measured_blocks_are_exact(table):
    predictor = Predictor(table)
    for block, timing in table.blocks.items():
        assert predictor.block_ms(block) == timing.median_ms


def test_sum_of_blocks(table, cases, by_formula):
    predictor = Predictor(table)
    for spec, size_hw in cases:
        assert predictor.latency_ms(spec, size_hw) == pytest.approx(by_formula(spec, size_hw))


def test_unmeasured_widths_are_interpolated(table, spec, by_formula):
    narrow = spec.with_stage(1, Stage(24, (20, 28)))
    assert Predictor(table).latency_ms(narrow, (64, 64)) == pytest.approx(by_formula(narrow, (64, 64)), rel=0.02)


def test_narrower_is_never_slower(table, spec):
    predictor = Predictor(table)
    for index in range(4):
        stage = spec.stages[index]
        widths = range(8, stage.inner[0] + 1, 4)
        times = [predictor.latency_ms(spec.with_stage(index, replace(stage, inner=(w, *stage.inner[1:]))), (64, 64)) for w in widths]
        assert times == sorted(times)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 200), st.integers(1, 200))
def test_containing_block_is_never_cheaper_than_measured(reads, writes, more_reads, more_writes):
    rows = [((r, w, 8, 8, 1), 0.01 + r * w * 1e-4 + (r % 16 > 0) * 0.002) for r in (16, 64, 160) for w in (16, 64, 160)]
    model = FamilyModel("conv 3x3/1", rows)
    (at,) = model.predict([(reads, writes, 8, 8, 1)])
    assert at > 0
    for sizes, ms in rows:
        if sizes[0] >= reads and sizes[1] >= writes:
            assert at <= ms
        if sizes[0] <= reads and sizes[1] <= writes:
            assert at >= ms


def test_channel_blocks_of_the_runtime_are_found():
    rows = [((64, w, 16, 16, 1), 0.02 + -(-w // 16) * 0.1) for w in range(8, 129, 8)]
    model = FamilyModel("conv 3x3/1", rows)
    assert model.width_step == 16
    within, at_end = model.predict([(64, 44, 16, 16, 1), (64, 48, 16, 16, 1)])
    assert within == pytest.approx(at_end, rel=0.01)


def test_nonnegative_fit():
    import numpy as np

    features = np.array([[1.0, 2.0, 1.0], [1.0, 5.0, 0.5], [1.0, 9.0, 3.0], [1.0, 1.0, 4.0]])
    assert nonnegative_fit(features, features @ [0.5, 0.0, 2.0]).tolist() == pytest.approx([0.5, 0.0, 2.0], abs=1e-9)
    assert (nonnegative_fit(features, np.array([4.0, 3.0, 2.0, 1.0])) >= 0).all()


def test_engines_correct_the_sum(table, spec, by_formula):
    for factor in (1.0, 0.75, 0.5):
        for size_hw in ((64, 64), (96, 96)):
            narrow = scale_backbone(spec, factor)
            ms = 1.2 * by_formula(narrow, size_hw) + 3.0
            table.engines.append(EngineRow(narrow, size_hw, Timing(ms, ms, ms, 5)))
    predictor = Predictor(table)
    assert predictor.latency_ms(spec, (64, 64)) == pytest.approx(1.2 * by_formula(spec, (64, 64)) + 3.0, rel=0.02)


def test_one_engine_scales_the_sum(table, spec, by_formula):
    ms = 1.5 * by_formula(spec, (64, 64))
    table.engines.append(EngineRow(spec, (64, 64), Timing(ms, ms, ms, 5)))
    assert Predictor(table).latency_ms(spec, (96, 96)) == pytest.approx(1.5 * by_formula(spec, (96, 96)))


def test_answers_are_quick_and_repeatable(table, spec):
    predictor = Predictor(table)
    first = predictor.latency_ms(spec, (64, 64))
    start = time.perf_counter()
    for _ in range(100):
        assert predictor.latency_ms(spec, (64, 64)) == first
    assert (time.perf_counter() - start) / 100 < 1e-3
    assert Predictor(table).latency_ms(spec, (64, 64)) == first


def test_explanation(table, spec):
    wider = spec.with_stage(0, Stage(20, (20, 400)))
    lines = {line.block: line for line in Predictor(table).explain(wider, (64, 64))}
    assert set(lines) == {block for block, _ in blocks_of(wider, (64, 64))}
    measured = Block("linear", (64, 64, 1, 1, 50))
    assert (lines[measured].source, lines[measured].rows) == ("measured", (measured,))
    between = lines[Block("conv 3x3/1", (20, 20, 16, 16, 1))]
    assert between.source == "interpolated"
    assert set(between.rows) <= set(table.blocks)
    assert lines[Block("conv 3x3/1", (20, 400, 16, 16, 1))].source == "extrapolated"


def test_missing_kind(table):
    lite = preset("lite0", 3)
    with pytest.raises(TargetError, match="no row of kind 'conv 3x3/2'|no row of kind 'depthwise 3x3/1'"):
        Predictor(table).latency_ms(lite, (64, 64))


def test_empty_table(spec):
    empty = LatencyTable("cpu-ort", "ort-cpu", "fp32", 1, {})
    with pytest.raises(TargetError, match="it holds: nothing"):
        Predictor(empty).latency_ms(spec, (64, 64))
