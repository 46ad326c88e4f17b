from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxslim
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.artifact import INPUT_NAMES, OUTPUT_NAMES
from export.graph import export_onnx, fold_norms, verify
from export.parity import compare
from export.runners import open_runner, predictor
from jdnas.errors import CheckpointError, ConfigError, JdnasError
from jdnas.models.axes import Axis
from jdnas.models.layers import Conv, ConvNorm
from tests.export.runner_contract import random_batches


def test_detections_equal_the_eager_detectors(tiny):
    with open_runner(tiny.path) as runner, torch.no_grad():
        result = compare(tiny.detector, predictor(runner), random_batches(3, tiny.size_hw, 2))
    assert result.passed, result.message
    assert result.detections > 50
    assert result.matched == 1.0


def test_there_is_nothing_left_to_slim(tiny):
    def operators(model):
        return Counter(node.op_type for node in model.graph.node)

    model = onnx.load(tiny.path)
    assert operators(onnxslim.slim(onnx.load(tiny.path))) == operators(model)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def test_images_without_detections(tiny, tmp_path):
    model = onnx.load(tiny.path)
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "box_head.class_logits.bias")
    background = numpy_helper.to_array(bias) + np.array([50.0, 0.0, 0.0, 0.0], np.float32)
    bias.CopyFrom(numpy_helper.from_array(background, bias.name))
    onnx.save(model, tmp_path / "background.onnx")
    state = tiny.state | {"box_head.class_logits.bias": torch.from_numpy(background)}
    other = type(tiny.detector)(tiny.spec).eval()
    other.load_state_dict(state)
    (batch,) = random_batches(1, tiny.size_hw, 2)
    with open_runner(tmp_path / "background.onnx") as runner, torch.no_grad():
        outputs = runner.run(batch.images.numpy(), batch.sizes_hw.numpy())
        assert compare(other, predictor(runner), [batch]).detections == 0
    assert all(not array.any() for array in outputs.values())


def test_a_detector_with_other_weights_is_told_apart(tiny):
    moved = {name: tensor + 0.02 if tensor.is_floating_point() else tensor for name, tensor in tiny.state.items()}
    other = type(tiny.detector)(tiny.spec).eval()
    other.load_state_dict(moved)
    with open_runner(tiny.path) as runner, torch.no_grad():
        assert not compare(other, predictor(runner), random_batches(1, tiny.size_hw, 2)).passed


def test_graph_is_static_and_standard(tiny):
    model = onnx.load(tiny.path)
    verify(model)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert model.opset_import[0].version >= 18
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*model.graph.input, *model.graph.output)}
    height, width = tiny.size_hw
    assert list(shapes) == [*INPUT_NAMES, *OUTPUT_NAMES]
    assert list(shapes.values()) == [[2, 3, height, width], [2, 2], [2, 20, 4], [2, 20], [2, 20], [2]]


def test_norms_are_folded_away(tiny):
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(tiny.path).graph.node}


def test_folding_keeps_the_function():
    layer = ConvNorm(Conv(Axis("a", 4), Axis("b", 6), 3), eps=1e-3)
    layer.norm.running_mean.normal_()
    layer.norm.running_var.uniform_(0.5, 2.0)
    torch.nn.init.normal_(layer.norm.weight)
    layer.eval()
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        before = layer(x)
        fold_norms(torch.nn.Sequential(layer))
        assert isinstance(layer.norm, torch.nn.Identity)
        torch.testing.assert_close(layer(x), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size_hw": (64, 100)}, "input size 100x64 cannot be exported; both sides must be multiples of 32"),
        ({"size_hw": (0, 64)}, "multiples of 32"),
        ({"batch": 0}, "at least 1"),
        ({"classes": ("one",)}, "3 classes"),
        ({"precision": "fp8"}, "known: fp16, fp32, int8"),
        ({"precision": "int8"}, "images to calibrate with"),
        ({"input_form": "jpeg"}, "known: image, normalized, uint8, uint8-nhwc"),
        ({"input_form": "image", "batch": 2}, "one image of any size"),
    ],
)
def test_settings_that_cannot_be_exported(tiny, tmp_path, changed, message):
    settings = {"size_hw": (64, 64), "batch": 1, "classes": tiny.classes, "path": tmp_path / "x.onnx", **changed}
    with pytest.raises(ConfigError, match=message):
        export_onnx(tiny.state, tiny.spec, **settings)
    assert not list(tmp_path.iterdir())


def test_weights_of_another_spec(tiny, tmp_path):
    state = dict(tiny.state)
    state.pop("fpn.lateral.0.weight")
    with pytest.raises(CheckpointError, match="do not fit"):
        export_onnx(state, tiny.spec, size_hw=(64, 64), path=tmp_path / "x.onnx", classes=tiny.classes)


def _model(node, shape=(1, 2), opset=20):
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)])


def test_verify_refuses_foreign_operators():
    with pytest.raises(JdnasError, match="com.microsoft::Gelu"):
        verify(_model(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")))


def test_verify_refuses_dynamic_shapes():
    with pytest.raises(JdnasError, match="static shape: x, y"):
        verify(_model(helper.make_node("Relu", ["x"], ["y"]), shape=("batch", 2)))


def test_verify_refuses_data_dependent_shapes():
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["found"]), helper.make_node("ReduceMax", ["found"], ["y"], keepdims=0)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (4,))],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ())],
    )
    with pytest.raises(JdnasError, match="static shape: found"):
        verify(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))


def test_nothing_is_left_when_writing_fails(tmp_path: Path):
    from jdnas.atomic import write_atomically

    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "taken", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
