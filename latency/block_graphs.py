"""Fused blocks as tiny ONNX graphs."""

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.session import Array
from latency.blocks import Block, kernel_and_stride, reads_per_output

_OPSET, _IR_VERSION = 18, 10


def layer_graph(block: Block, copies: int, *, half: bool = False) -> tuple[ModelProto, Mapping[str, Array]]:
    """Return a graph that runs a layer `copies` times on one input, in float32 or `half`, and its feeds.

    The copies have weights of their own and add up, `y = relu(layer(x) + y)`, so that the runtime keeps its inner layout between them
    and fuses convolution, addition and activation as it does inside a network; converting layouts is paid once for all copies.
    """
    rng = np.random.default_rng(0)
    dtype, kind = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    make = _linear if block.family == "linear" else _convolution
    input_shape, weight_shape = _shapes(block)
    nodes: list[NodeProto] = []
    weights: list[TensorProto] = []
    total = None
    for index in range(copies):
        fan_in = int(np.prod(weight_shape[1:]))
        weights.append(numpy_helper.from_array((rng.standard_normal(weight_shape) / fan_in**0.5).astype(dtype), f"w{index}"))
        weights.append(numpy_helper.from_array(np.zeros(weight_shape[0], dtype), f"b{index}"))
        nodes.append(make(block, index))
        summed = f"y{index}"
        if total is not None:
            nodes.append(helper.make_node("Add", [f"y{index}", total], [f"sum{index}"]))
            summed = f"sum{index}"
        total = f"relu{index}"
        nodes.append(helper.make_node("Relu", [summed], [total]))
    graph = helper.make_graph(
        nodes, "block", [helper.make_tensor_value_info("x", kind, input_shape)],
        [helper.make_tensor_value_info(f"relu{copies - 1}", kind, _output_shape(block))], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    return model, {"x": rng.standard_normal(input_shape).astype(dtype)}


def _shapes(block: Block) -> tuple[tuple[int, ...], tuple[int, ...]]:
    reads, writes, height, width, rows = block.sizes
    if block.family == "linear":
        return (rows, reads), (writes, reads)
    kernel, stride = kernel_and_stride(block.family)
    return (rows, reads, height * stride, width * stride), (writes, reads_per_output(block.family, reads), kernel, kernel)


def _output_shape(block: Block) -> tuple[int, ...]:
    _, writes, height, width, rows = block.sizes
    return (rows, writes) if block.family == "linear" else (rows, writes, height, width)


def _convolution(block: Block, index: int) -> NodeProto:
    kernel, stride = kernel_and_stride(block.family)
    total = max(kernel - stride, 0)
    before, after = total // 2, total - total // 2
    groups = block.sizes[0] // reads_per_output(block.family, block.sizes[0])
    return helper.make_node(
        "Conv", ["x", f"w{index}", f"b{index}"], [f"y{index}"],
        kernel_shape=[kernel, kernel], strides=[stride, stride], pads=[before, before, after, after], group=groups,
    )  # fmt: skip


def _linear(block: Block, index: int) -> NodeProto:
    return helper.make_node("Gemm", ["x", f"w{index}", f"b{index}"], [f"y{index}"], transB=1)
