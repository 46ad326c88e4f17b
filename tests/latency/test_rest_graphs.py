import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.ort_session import OrtSession
from latency.rest_graphs import cut_layers


def _weight(name, *shape):
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def test_layers_are_cut_and_the_rest_stays():
    nodes = [
        helper.make_node("Conv", ["images", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "w2"], ["f"]),
        helper.make_node("Softmax", ["f"], ["scores"]),
        helper.make_node("Transpose", ["scores"], ["g"], perm=[1, 0]),
        helper.make_node("MatMul", ["scores", "g"], ["boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, 4, 4))],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, (1, 1)),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 5)),
        ],
        [_weight("w0", 6, 3, 3, 3), _weight("w1", 2, 6, 1, 1), _weight("w2", 8, 5)],
    )
    rest = cut_layers(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    onnx.checker.check_model(rest, full_check=True)
    # The product of two activations is no layer; what a layer reads from an activation function belongs to the layer before.
    assert [node.op_type for node in rest.graph.node] == ["MaxPool", "Flatten", "Softmax", "Transpose", "MatMul"]
    assert {value.name for value in rest.graph.input} == {"c", "f"}
    assert [value.name for value in rest.graph.output] == ["boxes", "scores", "e"]
    outputs = OrtSession(rest.SerializeToString(), threads=1).run(
        {"c": np.ones((1, 2, 4, 4), np.float32), "f": np.zeros((1, 5), np.float32)}
    )
    assert outputs["scores"].tolist() == [[np.float32(0.2)] * 5]
