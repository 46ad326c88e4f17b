"""Cutting the ONNX graph of a Faster R-CNN behind its RPN convolutions, whoever exported it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, helper

from export.ort_session import OrtSession

_LEVELS = 5


@dataclass(frozen=True)
class Cut:
    """What follows the RPN convolutions as a graph of its own, and the tensors that an image gives it."""

    rest: ModelProto
    feeds: Mapping[str, Any]


def cut_behind_rpn(model: ModelProto, feeds: Mapping[str, Any], *, anchors: int) -> Cut:
    """Cut at the outputs of the RPN's predictors and at the levels that RoIs are pooled from; `feeds` are the whole graph's."""
    graph = model.graph
    names = [*_predictors(graph, anchors), *_levels(graph, anchors)]
    front = ModelProto()
    front.CopyFrom(model)
    del front.graph.output[:]
    front.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    found = OrtSession(front.SerializeToString()).run(feeds)
    nodes = _needed(graph, {value.name for value in graph.output}, set(names))
    read = {name for node in nodes for name in _names_read(node)}
    given = {name: array for name, array in {**feeds, **found}.items() if name in read}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in given.items()
    ]
    if any(node.op_type == "Conv" for node in nodes):
        raise SystemExit("what follows the RPN convolutions has convolutions: the graph was cut in the wrong place")
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    body = helper.make_graph(nodes, "rest", inputs, list(graph.output), weights)
    return Cut(helper.make_model(body, opset_imports=list(model.opset_import), ir_version=model.ir_version), given)


def _predictors(graph: GraphProto, anchors: int) -> list[str]:
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    wanted = {anchors, 4 * anchors}
    found = [n.output[0] for n in graph.node if n.op_type == "Conv" and _is_predictor(weights.get(n.input[1], ()), wanted)]
    if len(found) != 2 * _LEVELS:
        raise SystemExit(f"the graph has {len(found)} RPN predictors, not {2 * _LEVELS}")
    return found


def _is_predictor(shape: tuple[int, ...], wanted: set[int]) -> bool:
    return len(shape) == 4 and shape[0] in wanted and shape[2:] == (1, 1)


def _levels(graph: GraphProto, anchors: int) -> list[str]:
    # A predictor reads an activation of a 3x3 convolution of a level.
    makers = {name: node for node in graph.node for name in node.output}
    found: dict[str, None] = {}
    for name in _predictors(graph, anchors):
        before = makers[makers[name].input[0]]
        found[(before if before.op_type == "Conv" else makers[before.input[0]]).input[0]] = None
    return list(found)


def _needed(graph: GraphProto, wanted: set[str], given: set[str]) -> list[NodeProto]:
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(set(_names_read(node)) - given)
    return kept[::-1]


def _names_read(node: NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in (*attribute.g.node, *(one for graph in attribute.graphs for one in graph.node)):
            yield from _names_read(inner)
        yield from (value.name for value in attribute.g.output)  # a branch may hand on a tensor from outside


def kinds(model: ModelProto) -> dict[str, int]:
    """Count the operators of a graph."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
