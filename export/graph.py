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

from export.artifact import INPUT_FORMS, INPUT_NAMES, OUTPUT_NAMES, ArtifactInfo, InputForm
from export.input_forms import CANVAS, with_input_form
from jdnas.atomic import write_atomically
from jdnas.errors import CheckpointError, ConfigError, JdnasError, unknown_name
from jdnas.models.detector import EXPORT, Detector, Forms, build
from jdnas.models.layers import ConvNorm
from jdnas.spec import DetectorSpec

OPSET = 20
PRECISIONS = ("fp32", "fp16", "int8")
CANVAS_STEP = 32
_STANDARD_DOMAINS = ("", "ai.onnx")


def export_onnx(
    state: Mapping[str, Tensor], spec: DetectorSpec, *, size_hw: tuple[int, int], batch: int = 1, path: Path,
    classes: Sequence[str], precision: str = "fp32", provenance: Mapping[str, Any] | None = None, input_form: InputForm = "normalized",
    forms: Forms = EXPORT,
) -> Path:  # fmt: skip
    """Write the detector of `spec` with weights `state` to `path` and return the path.

    Inputs are those of `input_form` (see `ArtifactInfo`), by default images `[B, 3, H, W]` float32 (normalized) and sizes_hw `[B, 2]`
    int64; outputs are boxes `[B, D, 4]` xyxy canvas pixels, scores `[B, D]`, labels `[B, D]` int64 in 1..K and count `[B]` int64.
    "fp32" or "fp16"; int8 takes calibration (`export.int8`). `forms` are those of a runtime (`export.forms`), with static shapes; ONNX
    Runtime and OpenVINO run all of them. The file appears whole or not at all. ConfigError for settings that cannot be exported,
    CheckpointError for weights that do not fit.
    """
    if precision == "int8":
        raise ConfigError("int8 needs images to calibrate with; export it with: jdnas export --precision int8 --data FOLDER")
    check_settings(spec, size_hw, batch, classes, input_form)
    graph = detector_graph(state, spec, size_hw=size_hw, batch=batch, precision=precision, forms=forms)
    info = ArtifactInfo(spec, tuple(classes), size_hw, batch, precision, dict(provenance or {}), asdict(forms), input=input_form)
    return write_artifact(graph, info, path)


def detector_graph(
    state: Mapping[str, Tensor], spec: DetectorSpec, *, size_hw: tuple[int, int], batch: int = 1, precision: str = "fp32",
    forms: Forms = EXPORT,
) -> ModelProto:  # fmt: skip
    """Return the graph of normalized canvases without metadata, in "fp32" or "fp16".

    In fp16 the network runs in half; boxes, their overlaps, scores and every input and output stay in float32.
    """
    if precision not in PRECISIONS[:2]:
        raise ConfigError(unknown_name("precision", precision, PRECISIONS))
    detector = deployed(state, spec, forms)
    return _slim(_trace(halved(detector) if precision == "fp16" else detector, size_hw, batch))


def write_artifact(graph: ModelProto, info: ArtifactInfo, path: Path) -> Path:
    """Write a copy of a graph of normalized canvases with its input form and metadata, verified and whole."""
    model = ModelProto()
    model.CopyFrom(graph)
    model = with_input_form(model, info)
    onnx.helper.set_model_props(model, info.to_properties())
    model.producer_name, model.producer_version = "jdnas", info.version
    verify(model)
    write_atomically(path, model.SerializeToString())
    return path


def stamp(path: Path, info: ArtifactInfo) -> None:
    """Give an artifact other metadata."""
    model = onnx.load(path)
    onnx.helper.set_model_props(model, info.to_properties())
    write_atomically(path, model.SerializeToString())


class _Half(nn.Module):
    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector.half()

    def forward(self, images: Tensor, sizes_hw: Tensor) -> Any:
        return self.detector(images.half(), sizes_hw)


def halved(detector: Detector) -> nn.Module:
    """Return the detector with its network in half behind a float32 input; box arithmetic casts to float32 by itself.

    JdnasError where a weight lies beyond the range of half.
    """
    half = _Half(detector)
    wrong = [name for name, tensor in detector.named_parameters() if not tensor.isfinite().all()]
    if wrong:
        raise JdnasError(f"the weights of {wrong[0]} exceed the range of fp16; export in fp32")
    return half


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
    """Raise a JdnasError unless `model` is valid ONNX with standard operators only and static shapes from the canvas on."""
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
    free = _before(model.graph, CANVAS)
    wanted = [name for name in (*(value.name for value in inferred.input), *made) if name not in free]
    dynamic = [name for name in wanted if name not in known or not _is_static(known[name])]
    if dynamic:
        raise JdnasError(f"the exported graph has tensors without a static shape: {', '.join(dynamic[:5])}")


def check_settings(
    spec: DetectorSpec, size_hw: tuple[int, int], batch: int, classes: Sequence[str], input_form: InputForm = "normalized"
) -> None:
    """Raise a ConfigError for settings that cannot be exported."""
    if any(side < CANVAS_STEP or side % CANVAS_STEP for side in size_hw):
        raise ConfigError(f"input size {size_hw[1]}x{size_hw[0]} cannot be exported; both sides must be multiples of {CANVAS_STEP}")
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, got {batch}")
    if len(classes) != spec.num_classes:
        raise ConfigError(f"the detector has {spec.num_classes} classes, got {len(classes)} class names")
    if input_form not in INPUT_FORMS:
        raise ConfigError(unknown_name("input form", input_form, INPUT_FORMS))
    if input_form == "image" and batch != 1:
        raise ConfigError(f"the input form 'image' takes one image of any size, got batch {batch}; use uint8 for batches")


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


def _before(graph: onnx.GraphProto, output: str) -> set[str]:
    # Everything that a tensor is computed from; nothing where there is no such tensor.
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    pending = [*makers[output].input] if output in makers else []
    while pending:
        name = pending.pop()
        if name and name not in found:
            found.add(name)
            pending += makers[name].input if name in makers else ()
    return found


def _is_static(value: ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim)
