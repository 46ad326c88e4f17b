"""A detector as an ONNX file: static shapes, standard operators, metadata inside."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto, NodeProto, ValueInfoProto
from torch import Tensor, nn

from export.artifact import INPUT_NAMES, OUTPUT_NAMES, ArtifactInfo
from jdnas.atomic import write_atomically
from jdnas.errors import CheckpointError, ConfigError, JdnasError, unknown_name
from jdnas.models.detector import EXPORT, Detector, Forms, build
from jdnas.models.layers import ConvNorm
from jdnas.spec import DetectorSpec

OPSET = 20
PRECISIONS = ("fp32",)
CANVAS_STEP = 32
_STANDARD_DOMAINS = ("", "ai.onnx")


def export_onnx(
    state: Mapping[str, Tensor], spec: DetectorSpec, *, size_hw: tuple[int, int], batch: int = 1, path: Path,
    classes: Sequence[str], precision: str = "fp32", provenance: Mapping[str, Any] | None = None, forms: Forms = EXPORT,
) -> Path:  # fmt: skip
    """Write the detector of `spec` with weights `state` to `path` and return the path.

    Inputs are images `[B, 3, H, W]` float32 (normalized) and sizes_hw `[B, 2]` int64; outputs are boxes `[B, D, 4]` xyxy canvas
    pixels, scores `[B, D]`, labels `[B, D]` int64 in 1..K and count `[B]` int64. `forms` are those of a runtime
    (`export.forms`), with static shapes; ONNX Runtime and OpenVINO run all of them. The file appears whole or not at all. ConfigError
    for settings that cannot be exported, CheckpointError for weights that do not fit.
    """
    check_settings(spec, size_hw, batch, classes)
    if precision not in PRECISIONS:
        raise ConfigError(unknown_name("precision", precision, PRECISIONS))
    model = _slim(_trace(deployed(state, spec, forms), size_hw, batch))
    info = ArtifactInfo(spec, tuple(classes), size_hw, batch, precision, dict(provenance or {}), forms=asdict(forms))
    onnx.helper.set_model_props(model, info.to_properties())
    model.producer_name, model.producer_version = "jdnas", info.version
    verify(model)
    write_atomically(path, model.SerializeToString())
    return path


def fold_norms(model: nn.Module) -> None:
    """Fold batch normalization with its running statistics into the convolutions, in place, computed in float64."""
    for module in model.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            conv, norm = module.conv, module.norm
            assert norm.running_mean is not None and norm.running_var is not None
            scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
            shift = norm.bias.double() - norm.running_mean.double() * scale
            conv.weight = nn.Parameter((conv.weight.double() * scale[:, None, None, None]).float(), requires_grad=False)
            conv.bias = nn.Parameter(shift.float(), requires_grad=False)
            module.norm = nn.Identity()  # type: ignore[assignment]


def verify(model: ModelProto) -> None:
    """Raise a JdnasError unless `model` is valid ONNX with static shapes and standard operators only."""
    foreign = {f"{node.domain}::{node.op_type}" for node in _nodes(model.graph) if node.domain not in _STANDARD_DOMAINS}
    foreign |= {f"function {function.domain}::{function.name}" for function in model.functions}
    if foreign:
        raise JdnasError(f"the exported graph uses operators outside the ONNX standard: {', '.join(sorted(foreign))}")
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise JdnasError(f"the exported graph is not valid ONNX: {' '.join(str(error).split())[:300]}") from error
    known = {value.name: value for value in (*inferred.input, *inferred.value_info, *inferred.output)}
    made = [name for node in inferred.node for name in node.output if name]
    dynamic = [name for name in (*(value.name for value in inferred.input), *made) if name not in known or not _is_static(known[name])]
    if dynamic:
        raise JdnasError(f"the exported graph has tensors without a static shape: {', '.join(dynamic[:5])}")


def check_settings(spec: DetectorSpec, size_hw: tuple[int, int], batch: int, classes: Sequence[str]) -> None:
    """Raise a ConfigError for settings that cannot be exported."""
    if any(side < CANVAS_STEP or side % CANVAS_STEP for side in size_hw):
        raise ConfigError(f"input size {size_hw[0]}x{size_hw[1]} cannot be exported; both sides must be multiples of {CANVAS_STEP}")
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, got {batch}")
    if len(classes) != spec.num_classes:
        raise ConfigError(f"the detector has {spec.num_classes} classes, got {len(classes)} class names")


def deployed(state: Mapping[str, Tensor], spec: DetectorSpec, forms: Forms = EXPORT) -> Detector:
    """Return the detector in evaluation mode with its norms folded; a CheckpointError for weights of another spec."""
    detector = build(spec, forms=forms)
    try:
        detector.load_state_dict(dict(state))
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the spec: {' '.join(str(error).split())[:300]}") from error
    detector.eval().requires_grad_(False)
    fold_norms(detector)
    return detector


def _trace(detector: nn.Module, size_hw: tuple[int, int], batch: int) -> ModelProto:
    example = (torch.zeros(batch, 3, *size_hw), torch.tensor([size_hw] * batch))
    # Without gradients from the start, or every no_grad function becomes a subgraph that doubles the time of tracing.
    with torch.no_grad(), quiet():
        program = torch.export.export(detector, example, strict=False)
        onnx_program = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=INPUT_NAMES, output_names=OUTPUT_NAMES, optimize=True, verbose=False
        )
    if onnx_program is None:
        raise JdnasError("the ONNX exporter of PyTorch returned nothing")
    return onnx_program.model_proto


def _slim(model: ModelProto) -> ModelProto:
    # Folds constants and merges duplicates; computes the same.
    import onnxslim

    with quiet():
        slimmed: ModelProto = onnxslim.slim(model)
    return slimmed


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what PyTorch's exporter says of its own internals."""
    # What matters to us is checked on the result.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _nodes(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _nodes(subgraph)


def _is_static(value: ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim)
