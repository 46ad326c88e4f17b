"""Rewritten graphs compute what the graphs did, in ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.ort_session import OrtSession
from export.without_gemm import without_gemm
from jdnas.errors import JdnasError
from tests.export.runner_contract import feeds

RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((12, 5)).astype(np.float32)
BIAS = RNG.standard_normal(5).astype(np.float32)


def graph_of(node, inputs, constants=(), *, kind=TensorProto.FLOAT):
    values = [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()]
    output = helper.make_empty_tensor_value_info("y")
    body = helper.make_graph([node], "g", values, [output], [numpy_helper.from_array(array, name) for name, array in constants])
    return onnx.shape_inference.infer_shapes(helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


@pytest.mark.parametrize(
    ("node", "inputs", "constants"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": (2, 7, 12)}, (("w", WEIGHTS),)),
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"]), {"x": (7, 12)}, (("w", WEIGHTS), ("b", BIAS))),
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1), {"x": (7, 12)}, (("w", WEIGHTS.T.copy()), ("b", BIAS))),
        (helper.make_node("MatMul", ["x", "z"], ["y"]), {"x": (3, 1, 12), "z": (3, 12, 5)}, ()),
        (helper.make_node("MatMul", ["x", "z"], ["y"]), {"x": (2, 4, 1, 6), "z": (2, 4, 6, 6)}, ()),
    ],
)
def test_products(node, inputs, constants):
    model = graph_of(node, inputs, constants)
    changed = without_gemm(model)
    assert not {one.op_type for one in changed.graph.node} & {"MatMul", "Gemm"}
    fed = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in inputs.items()}
    wanted, found = (OrtSession(one.SerializeToString(), threads=1).run(fed)["y"] for one in (model, changed))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_half_is_left_alone():
    model = graph_of(helper.make_node("MatMul", ["x", "z"], ["y"]), {"x": (4, 6), "z": (6, 6)}, kind=TensorProto.FLOAT16)
    assert [node.op_type for node in without_gemm(model).graph.node] == ["MatMul"]


def test_what_has_no_other_form():
    with pytest.raises(JdnasError, match=r"of \[4, 6\] and \[6, 6\] has no form without a matrix product"):
        without_gemm(graph_of(helper.make_node("MatMul", ["x", "z"], ["y"]), {"x": (4, 6), "z": (6, 6)}))


def test_a_whole_detector(tiny):
    model = onnx.load(tiny.path)
    changed = without_gemm(model)
    onnx.checker.check_model(changed, full_check=True)
    assert "MatMul" in {node.op_type for node in model.graph.node}
    assert not {node.op_type for node in changed.graph.node} & {"MatMul", "Gemm"}
    fed = dict(zip(("images", "sizes_hw"), feeds(tiny.size_hw), strict=True))
    wanted, found = (OrtSession(one.SerializeToString(), threads=1).run(fed) for one in (model, changed))
    np.testing.assert_array_equal(found["labels"], wanted["labels"])
    np.testing.assert_allclose(found["boxes"], wanted["boxes"], atol=1e-3)
