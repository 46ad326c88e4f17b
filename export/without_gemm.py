"""Graphs without matrix products in float32, for devices whose builder has none: TensorRT-RTX for Turing has convolutions alone."""

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from jdnas.errors import JdnasError

Shape = tuple[int, ...]


def without_gemm(model: ModelProto) -> ModelProto:
    """Return a graph that computes the same without MatMul and Gemm in float32; a JdnasError for a product that it does not know.

    A product with weights becomes a 1x1 convolution; one whose left side is a single row becomes a multiplication and a sum.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    kinds = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}
    shapes: dict[str, Shape] = {name: tuple(d.dim_value for d in kind.shape.dim) for name, kind in kinds.items()}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes |= {name: tuple(tensor.dims) for name, tensor in weights.items()}
    made = _Made(shapes, weights)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        is_product = node.op_type in ("MatMul", "Gemm") and kinds[node.output[0]].elem_type == TensorProto.FLOAT
        nodes += made.instead_of(node) if is_product else [node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in (*model.graph.initializer, *made.constants) if tensor.name in used]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    return result


class _Made:
    """Nodes that stand for products, and the constants that they read."""

    def __init__(self, shapes: dict[str, Shape], weights: dict[str, TensorProto]) -> None:
        self.shapes, self.weights = shapes, weights
        self.constants: list[TensorProto] = []

    def instead_of(self, node: NodeProto) -> list[NodeProto]:
        left, right = node.input[:2]
        if right in self.weights and len(self.shapes[right]) == 2:
            return self._convolution(node, left, right)
        if node.op_type == "MatMul" and len(self.shapes[left]) > 1 and self.shapes[left][-2] == 1:
            return self._weighted_sum(node, left, right)
        raise JdnasError(
            f"product {node.name} of {list(self.shapes[left])} and {list(self.shapes[right])} has no form without a matrix product"
        )

    def _convolution(self, node: NodeProto, left: str, right: str) -> list[NodeProto]:
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if settings.get("transA", 0) or settings.get("alpha", 1.0) != 1.0 or settings.get("beta", 1.0) != 1.0:
            raise JdnasError(f"product {node.name} has settings that no convolution has: {settings}")
        matrix = numpy_helper.to_array(self.weights[right])
        matrix = matrix if settings.get("transB", 0) else matrix.T  # [writes, reads]
        output = node.output[0]
        kernel = self._constant(f"{output}.kernel", np.ascontiguousarray(matrix)[:, :, None, None])
        before = self._constant(f"{output}.before", np.array([-1, matrix.shape[1], 1, 1], np.int64))
        after = self._constant(f"{output}.after", np.array(self.shapes[output], np.int64))
        rows, mapped = f"{output}.rows", f"{output}.mapped"
        return [
            helper.make_node("Reshape", [left, before], [rows], name=f"{output}.to_rows"),
            helper.make_node("Conv", [rows, kernel, *node.input[2:]], [mapped], name=f"{output}.conv", kernel_shape=[1, 1]),
            helper.make_node("Reshape", [mapped, after], [output], name=f"{output}.from_rows"),
        ]

    def _weighted_sum(self, node: NodeProto, left: str, right: str) -> list[NodeProto]:
        output, shape = node.output[0], self.shapes[left]
        upright = self._constant(f"{output}.upright", np.array([*shape[:-2], shape[-1], 1], np.int64))
        axis = self._constant(f"{output}.axis", np.array([-2], np.int64))
        column, products = f"{output}.column", f"{output}.products"
        return [
            helper.make_node("Reshape", [left, upright], [column], name=f"{output}.to_column"),
            helper.make_node("Mul", [column, right], [products], name=f"{output}.mul"),
            helper.make_node("ReduceSum", [products, axis], [output], name=f"{output}.sum", keepdims=1),
        ]

    def _constant(self, name: str, array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> str:
        self.constants.append(numpy_helper.from_array(array, name))
        return name
