from dataclasses import replace

import numpy as np
import onnx
import pytest

from export.ort_session import OrtSession
from jdnas.errors import ConfigError
from jdnas.models.complexity import layers
from jdnas.presets import preset
from latency.block_graphs import layer_graph
from latency.blocks import REST, Block, blocks_of, layer_features, rest_features, rounded


def test_every_layer_and_one_rest(spec):
    counts = dict(blocks_of(spec, (64, 96)))
    assert sum(counts.values()) == len(layers(spec, (64, 96))) + 1
    assert counts[Block(REST, (64, 96, 50, 50, 100, 32, 3))] == 1
    assert counts[Block("linear", (64, 64, 1, 1, 50))] == 1
    assert Block("conv 7x7/2", (3, 16, 32, 48, 1)) in counts


def features(make, family, *sizes, step=1):
    (row,) = make(family, np.array([sizes], float), step)
    return row.tolist()


def test_features_by_hand():
    # 3x3, 4 -> 6 channels, 5x7 output, stride 2: 35 positions.
    assert features(layer_features, "conv 3x3/2", 4, 6, 5, 7, 1) == [1, 35 * 9 * 4 * 6, 35 * (4 * 4 + 6), 9 * 4 * 6]
    assert features(layer_features, "depthwise 3x3/1", 6, 6, 5, 7, 1) == [1, 35 * 9 * 6, 35 * 12, 9 * 6]
    assert features(layer_features, "grouped2 3x3/1", 6, 6, 5, 7, 1) == [1, 35 * 9 * 2 * 6, 35 * 12, 9 * 2 * 6]
    assert features(layer_features, "linear", 4, 6, 1, 1, 10, step=8) == [1, 10 * 64, 10 * 16, 64]


def test_rest_by_hand():
    # 64x64: anchors on 16x16, 8x8, 4x4, 2x2, 1x1 cells; 100 candidates at most in a level.
    anchors = [768, 192, 48, 12, 3]
    total, pairs = sum(anchors), 100**2 + 100**2 + 48**2 + 12**2 + 3**2
    assert features(rest_features, REST, 64, 64, 100, 20, 10, 12, 3, step=8) == [1, total, pairs, 20 * 49 * 4 * 16, total * 16, 20 * 4]


def test_groups_are_families_and_deformable_layers_are_refused():
    spec = preset("x50_32x4d", 3)
    families = {block.family for block, _ in blocks_of(spec, (64, 96))}
    assert {"grouped4 3x3/1", "grouped8 3x3/2", "grouped32 3x3/1"} < families
    with pytest.raises(ConfigError, match="deformable convolution, whose latency no table has"):
        blocks_of(replace(spec, deformable=(3,)), (64, 96))
    for name in ("r18-cascade", "mobilenet_v3_fpn"):
        with pytest.raises(ConfigError, match="latency tables know one box head .* choose --set cost=multiply_adds"):
            blocks_of(preset(name, 3), (64, 96))


def test_pooling_that_no_table_has_is_refused():
    spec = preset("r18", 3)
    with pytest.raises(ConfigError, match="roi_sampling=0, whose latency no table has; .* --set model.roi_sampling=2"):
        blocks_of(replace(spec, head=replace(spec.head, roi_sampling=0)), (64, 96))


def test_rounded_width():
    assert rounded(np.array([3, 7, 8, 9]), 8).tolist() == [3, 8, 8, 16]


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (Block("conv 3x3/2", (8, 16, 5, 6, 1)), (1, 16, 5, 6)),
        (Block("conv 7x7/2", (3, 8, 6, 6, 1)), (1, 8, 6, 6)),
        (Block("conv 1x1/2", (8, 8, 3, 3, 1)), (1, 8, 3, 3)),
        (Block("depthwise 5x5/2", (8, 8, 4, 4, 1)), (1, 8, 4, 4)),
        (Block("depthwise 3x3/1", (8, 8, 4, 4, 1)), (1, 8, 4, 4)),
        (Block("grouped4 3x3/2", (8, 8, 4, 4, 1)), (1, 8, 4, 4)),
        (Block("linear", (12, 5, 1, 1, 7)), (7, 5)),
    ],
)
def test_graphs_run_and_have_the_blocks_shape(block, shape):
    model, feeds = layer_graph(block, copies=3)
    onnx.checker.check_model(model, full_check=True)
    (output,) = OrtSession(model.SerializeToString(), threads=1).run(feeds).values()
    assert output.shape == shape
    assert np.isfinite(output).all()
    assert output.max() > 0
    assert sum(node.op_type in ("Conv", "Gemm") for node in model.graph.node) == 3
