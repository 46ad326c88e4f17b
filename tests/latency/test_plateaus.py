import pytest

from jdnas.student.actions import ActionRules
from latency.blocks import Block
from latency.plateaus import width_step, widths_that_pay
from latency.predictor import Predictor
from latency.prior import find_prior
from latency.sources import PriorSource, TableSource
from latency.tables import LatencyTable
from latency.targets import load_target
from latency.timing import Timing


def source_of(step):
    """A device that computes `step` channels at a time in convolutions, and one at a time in a cheap family."""
    table = LatencyTable("cpu-ort", "ort-cpu", "fp32", 1, {})
    for width in range(8, 129, 8):
        for family, ms in (("conv 3x3/1", 0.02 + 0.1 * -(-width // step)), ("depthwise 3x3/1", 1e-4 * width)):
            table.blocks[Block(family, (64 if family.startswith("conv") else width, width, 16, 16, 1))] = Timing(ms, ms, ms, 5)
    return TableSource(Predictor(table))


@pytest.mark.parametrize(("step", "pays"), [(16, {8: 8, 16: 16, 24: 16, 40: 32, 48: 48}), (32, {24: 24, 40: 32, 63: 32, 64: 64})])
def test_widths_at_the_end_of_a_plateau_pay(step, pays):
    source = source_of(step)
    assert width_step(source) == step
    found = widths_that_pay(source)
    assert {width: found(width) for width in pays} == pays
    for width in range(step, 129, 8):  # what is given away costs as much as what is kept
        kept = source.predictor.block_ms(Block("conv 3x3/1", (64, found(width), 16, 16, 1)))
        narrower = source.predictor.block_ms(Block("conv 3x3/1", (64, found(width) - step + 8, 16, 16, 1)))
        assert kept == pytest.approx(narrower)


def test_pruned_widths_snap():
    free, snapped = ActionRules(), ActionRules(pays=widths_that_pay(source_of(32)))
    assert [free.narrower(width) for width in (96, 64, 40, 8)] == [88, 56, 32, None]
    assert [snapped.narrower(width) for width in (96, 64, 40, 32, 8)] == [64, 32, 32, 24, None]
    assert snapped.narrower(96, group_width=24) == 48  # whole groups come first


def test_a_prior_rounds_to_its_own_step():
    target = load_target("v100-trt")
    assert width_step(PriorSource(find_prior(target)[0])) == 8


def test_a_table_without_convolutions_does_not_snap():
    assert width_step(TableSource(Predictor(LatencyTable("cpu-ort", "ort-cpu", "fp32", 1, {})))) == 1
