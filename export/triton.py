"""A model repository of Triton Inference Server with an artifact in it, for its ONNX Runtime backend."""

import json
import re
from pathlib import Path

from onnx import TensorProto, ValueInfoProto

from export.artifact import ArtifactInfo
from export.tensors import load_graph, properties_of
from jdnas.atomic import write_atomically
from jdnas.errors import CheckpointError, ConfigError

_TYPES: dict[int, str] = {TensorProto.FLOAT: "TYPE_FP32", TensorProto.INT64: "TYPE_INT64", TensorProto.UINT8: "TYPE_UINT8"}
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


def write_triton_repository(artifact: Path, folder: Path, name: str | None = None) -> Path:
    """Copy an .onnx artifact to `folder`/NAME/1/model.onnx, write NAME/config.pbtxt, and return the folder of the model.

    The name is the file's by default; other models of the repository stay as they are. Shapes are static, so the batch is part of
    them and Triton's own batching is off (max_batch_size 0). CheckpointError for a file that jdnas did not export.
    """
    name = artifact.stem if name is None else name
    if not re.fullmatch(_NAME, name):
        raise ConfigError(f"{name!r} cannot be the name of a Triton model; letters, digits and ._- are allowed, so rename {artifact}")
    model = load_graph(artifact, str(artifact))
    info = ArtifactInfo.from_properties(properties_of(model), str(artifact))
    config = config_text(name, info, list(model.graph.input), list(model.graph.output))
    write_atomically(folder / name / "1" / "model.onnx", artifact.read_bytes())
    write_atomically(folder / name / "config.pbtxt", config.encode())
    return folder / name


def config_text(name: str, info: ArtifactInfo, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> str:
    """Return config.pbtxt; what a client needs to prepare images and to name labels is in its parameters."""
    traits = info.spec.traits
    values = {"classes": info.classes, "size_hw": info.size_hw, "mean": traits.mean, "std": traits.std, "precision": info.precision,
              "input": info.input}  # fmt: skip
    parameters = [
        f'parameters {{ key: "{key}" value {{ string_value: {_quoted(value if isinstance(value, str) else json.dumps(value))} }} }}'
        for key, value in values.items()
    ]
    tensors = [*(("input", value) for value in inputs), *(("output", value) for value in outputs)]
    return "\n".join([
        f'name: "{name}"', 'backend: "onnxruntime"', "max_batch_size: 0",
        *(f"{kind} {{ {_tensor(value)} }}" for kind, value in tensors), *parameters,
    ]) + "\n"  # fmt: skip


def _tensor(value: ValueInfoProto) -> str:
    kind = value.type.tensor_type
    if kind.elem_type not in _TYPES:
        raise CheckpointError(f"tensor {value.name!r} has a type that the Triton configuration does not know; export it again")
    sides = (str(d.dim_value) if d.HasField("dim_value") else "-1" for d in kind.shape.dim)
    return f'name: "{value.name}" data_type: {_TYPES[kind.elem_type]} dims: [{", ".join(sides)}]'


def _quoted(text: str) -> str:
    """Return a string of protobuf's text format: UTF-8, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)
