"""Shapes and types of a graph's inputs and outputs: read from ONNX, and kept beside engines that do not hold them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, ValueInfoProto

from export.session import Kind, first_line
from jdnas.errors import CheckpointError

TENSORS = "jdnas.tensors"
Kinds = dict[str, Kind]


def load_graph(model: Path | bytes, where: str) -> ModelProto:
    """Read an ONNX file or its bytes; a CheckpointError that names `where`."""
    if isinstance(model, Path) and not model.is_file():
        raise CheckpointError(f"artifact {where} does not exist; make one with: jdnas export")
    try:
        graph = onnx.load_from_string(model if isinstance(model, bytes) else model.read_bytes())
    except Exception as error:  # protobuf's own exception class differs between its implementations
        raise CheckpointError(f"{where} is not an ONNX file ({first_line(error)}); export it again with: jdnas export") from error
    if not graph.graph.node:
        raise CheckpointError(f"{where} is not an ONNX file (it holds no graph); export it again with: jdnas export")
    return graph


def properties_of(model: ModelProto) -> dict[str, str]:
    """Return the text properties of a graph."""
    return {entry.key: entry.value for entry in model.metadata_props}


def kinds_of(model: ModelProto) -> tuple[Kinds, Kinds]:
    """Return shapes and types of a graph's inputs and outputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    return {v.name: _kind(v) for v in inputs}, {v.name: _kind(v) for v in model.graph.output}


def text_from_kinds(inputs: Mapping[str, Kind], outputs: Mapping[str, Kind]) -> str:
    """Return both as JSON."""
    sides = ({name: [list(shape), np.dtype(dtype).name] for name, (shape, dtype) in side.items()} for side in (inputs, outputs))
    return json.dumps(list(sides))


def kinds_from_text(text: str) -> tuple[Kinds, Kinds]:
    """Read what `text_from_kinds` wrote; a ValueError, KeyError or TypeError for other text."""
    inputs, outputs = ({name: (tuple(shape), np.dtype(dtype).type) for name, (shape, dtype) in side.items()} for side in json.loads(text))
    return inputs, outputs


def _kind(value: ValueInfoProto) -> Kind:
    tensor = value.type.tensor_type
    return tuple(d.dim_param or d.dim_value for d in tensor.shape.dim), onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).type
