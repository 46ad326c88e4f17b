import time
from dataclasses import replace

import numpy as np
import pytest

from jdnas.errors import TargetError
from jdnas.models.complexity import layers
from jdnas.presets import preset
from jdnas.spec import Stage
from latency.blocks import fuses_addition, layer_block
from latency.prior import find_prior
from latency.sources import PriorSource, TableSource, knowledge, open_source
from latency.targets import load_target

V100 = load_target("v100-trt")
FULL_HW = (800, 1344)


@pytest.fixture(scope="module")
def shipped():
    return PriorSource(find_prior(V100)[0])


def test_known_and_unknown_targets():
    assert knowledge(V100) == "third-party prior"
    assert knowledge(load_target("cpu-ort")) == "shipped table"
    assert knowledge(load_target("t4-trt")) == "nothing"
    with pytest.raises(TargetError, match="on a machine with NVIDIA T4 run: jdnas latency measure --target t4-trt"):
        open_source(load_target("t4-trt"))


def test_broken_files_are_told():
    V100.prior_path.write_text("{")
    assert knowledge(V100) == "broken prior"
    V100.table_path.write_text("{")
    assert knowledge(V100) == "broken table"


def test_a_measured_table_replaces_the_prior(table):
    source = open_source(V100)
    assert (source.label, source.describe()["label"]) == ("third-party prior", "third-party prior")
    replace(table, target="v100-trt", runtime="tensorrt", precision="fp16").save(V100.table_path)
    assert knowledge(V100) == "table measured here"
    source = open_source(V100)
    assert isinstance(source, TableSource)
    assert (source.label, source.describe()["provenance"]) == ("predicted from a measured table", table.provenance)


def test_a_detector_is_the_sum_of_its_layers(shipped, spec):
    parts = shipped.parts_ms(spec, (96, 128))
    by_hand = {}
    for layer in layers(spec, (96, 128)):
        block = layer_block(layer)
        (latency_ms,) = shipped.prior.latency_ms(block.family, [(block.sizes, fuses_addition(spec, layer))])
        by_hand[layer.part] = by_hand.get(layer.part, 0.0) + latency_ms
    assert parts == pytest.approx(by_hand)
    assert shipped.latency_ms(spec, (96, 128)) == pytest.approx(sum(by_hand.values()))


def test_a_prior_is_asked_for_whole_batches(shipped, spec):
    of_four = PriorSource(replace(shipped.prior, batch=4))
    layer = layers(spec, (96, 128))[0]
    block = layer_block(layer)
    (expected,) = shipped.prior.latency_ms(block.family, [((*block.sizes[:4], 4), fuses_addition(spec, layer))])
    assert of_four.parts_ms(spec, (96, 128))[layer.part] == pytest.approx(expected)
    assert of_four.latency_ms(spec, (96, 128)) > shipped.latency_ms(spec, (96, 128))


@pytest.mark.parametrize(
    ("name", "count"),
    [("r18", 8), ("r50", 16), ("lite0", 9)],  # one per block; blocks of Lite0 that open a stage have no shortcut
)
def test_a_residual_block_fuses_one_addition(name, count):
    one = preset(name, 3)
    assert sum(fuses_addition(one, layer) for layer in layers(one, (64, 64))) == count


def test_describes_lineage_and_what_is_left_out(shipped):
    facts = shipped.describe()
    assert facts["lineage"]["measured_by"] == "third party, not by this project"
    assert "NMS" in facts["covers"]
    assert facts["error_on_held_out_convolutions"]["mape"] == shipped.prior.error.mape


def test_larger_detectors_and_canvases_take_longer(shipped):
    times = [shipped.latency_ms(preset(name, 80), FULL_HW) for name in ("r18", "r50", "r101")]
    assert times == sorted(times) and times[2] > 1.3 * times[1]
    assert shipped.latency_ms(preset("r50", 80), (736, 1088)) < 0.9 * times[1]


def test_answers_take_less_than_a_millisecond(shipped):
    base = preset("r101", 80)
    shipped.latency_ms(base, FULL_HW)
    seconds = []
    for width in range(256, 96, -8):
        changed = base.with_stage(2, Stage(1024, (width,) * 23))
        layers(changed, FULL_HW)
        start = time.perf_counter()
        shipped.latency_ms(changed, FULL_HW)
        seconds.append(time.perf_counter() - start)
    assert np.min(seconds) < 1e-3
