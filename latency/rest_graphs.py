"""The rest of a detector as an ONNX graph: what stays when convolutions and fully connected layers are cut out of its export."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from export.artifact import INPUT_NAMES
from export.forms import forms_for
from export.graph import export_onnx
from export.session import Array
from jdnas.models.detector import build
from jdnas.spec import DetectorSpec
from latency.blocks import SizeHW

_LAYERS = ("Conv", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip")


def rest_graph(spec: DetectorSpec, size_hw: SizeHW, *, runtime: str = "ort-cpu", precision: str = "fp32") -> ModelProto:
    """Export a detector with random weights for a runtime and return it with its layers with weights cut out."""
    return cut_layers(_exported(spec, size_hw, runtime, precision))


def rest_feeds(model: ModelProto, size_hw: SizeHW) -> Mapping[str, Array]:
    """Return random inputs of a rest."""
    rng = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for value in model.graph.input:
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = rng.standard_normal(shape).astype(dtype)
    if INPUT_NAMES[1] in feeds:
        feeds[INPUT_NAMES[1]] = np.array([size_hw], np.int64)
    return feeds


def cut_layers(model: ModelProto) -> ModelProto:
    """Return `model` with the outputs of its layers with weights as inputs, and what those layers read as outputs.

    What a layer reads from an activation is dropped: runtimes fuse the activation into the layer before it.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = inferred.graph
    weights = {tensor.name for tensor in graph.initializer}
    layers = [node for node in graph.node if node.op_type in _LAYERS and node.input[1] in weights]
    values = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    maker = {name: node for node in graph.node for name in node.output}
    fed = {layer.output[0] for layer in layers}
    read = {layer.input[0] for layer in layers if layer.input[0] in maker and layer.input[0] not in fed}
    read = {name for name in read if maker[name].op_type not in _ACTIVATIONS}
    results = [*(value.name for value in graph.output), *sorted(read)]
    nodes = _needed(graph, results, fed)
    used = {name for node in nodes for name in node.input}
    inputs = [_named(values[name]) for name in (*(value.name for value in graph.input), *sorted(fed)) if name in used]
    body = helper.make_graph(
        nodes, "rest", inputs, [_named(values[name]) for name in results], [t for t in graph.initializer if t.name in used]
    )
    return helper.make_model(body, opset_imports=list(model.opset_import), ir_version=model.ir_version)


def _needed(graph: GraphProto, results: list[str], fed: set[str]) -> list[NodeProto]:
    wanted, kept = set(results) - fed, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(name for name in node.input if name not in fed)
    return kept[::-1]


def _named(value: ValueInfoProto) -> ValueInfoProto:
    tensor = value.type.tensor_type
    return helper.make_tensor_value_info(value.name, tensor.elem_type, [d.dim_value for d in tensor.shape.dim])


def _exported(spec: DetectorSpec, size_hw: SizeHW, runtime: str, precision: str) -> ModelProto:
    classes = [str(label) for label in range(1, spec.num_classes + 1)]
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        path = Path(folder) / "rest.onnx"
        state, forms = build(spec).state_dict(), forms_for(runtime)
        export_onnx(state, spec, size_hw=size_hw, batch=1, path=path, classes=classes, precision=precision, forms=forms)
        return onnx.load(path)
