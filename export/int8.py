"""int8 by static Q/DQ: ranges of activations from the user's images, and the graph that works with them.

Ranges and scales are computed by ONNX Runtime's quantizer. Weights are int8 per output channel. What runs in int8 is said in
`export.int8_layers`; everything else stays in float.
"""

import contextlib
import copy
import io
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from export.artifact import INPUT_NAMES
from export.int8_layers import Quantizable, quantizable
from export.ort_session import import_onnxruntime
from export.settings import Int8Settings
from jdnas.errors import DataError

Feeds = Mapping[str, "np.ndarray[Any, np.dtype[Any]]"]
_AT_ONCE = 8  # batches whose activations are in memory at a time


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A float graph ready to be quantized: its shapes inferred, its quantizable parts and the ranges of their tensors."""

    model: ModelProto
    parts: Quantizable
    ranges: Any
    settings: Int8Settings
    images: int


def calibrate(graph: ModelProto, batches: Iterable[Feeds], settings: Int8Settings) -> Calibrated:
    """Run a float graph of normalized canvases on `batches` and find the range of every tensor that may be quantized.

    DataError where there is no image.
    """
    import_onnxruntime("ort-cpu")
    from onnxruntime.quantization.quant_utils import save_and_reload_model_with_shape_infer

    model = copy.deepcopy(graph)
    parts = quantizable(model)
    nodes = set(parts.nodes())
    wanted = {name for node in model.graph.node if node.name in nodes for name in (*node.input, *node.output)}
    images = 0
    with tempfile.TemporaryDirectory() as folder, _silent():
        calibrater = _calibrater(model, wanted, settings, Path(folder))
        pending = iter(batches)
        while group := list(itertools.islice(pending, _AT_ONCE)):
            calibrater.collect_data(_Reader(group))
            images += sum(len(feeds[INPUT_NAMES[0]]) for feeds in group)
        if not images:
            raise DataError("int8 needs images to calibrate with, got none")
        ranges = calibrater.compute_data()
        inferred = save_and_reload_model_with_shape_infer(model)
        return Calibrated(inferred, parts, _in_types_of(inferred, ranges), settings, images)


def quantized(calibrated: Calibrated, kept: frozenset[str] = frozenset()) -> ModelProto:
    """Return the graph with Q/DQ around everything quantizable outside the groups `kept`; without any left, the float graph."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    settings, nodes = calibrated.settings, calibrated.parts.nodes(kept)
    model = copy.deepcopy(calibrated.model)
    if not nodes:
        return model
    layers = {layer.node for layer in calibrated.parts.layers}
    chosen = nodes if settings.style == "cpu" else [node for node in nodes if node in layers]
    kinds = sorted({node.op_type for node in model.graph.node if node.name in set(chosen)})
    symmetric = settings.style == "tensorrt"
    options: dict[str, Any] = {"WeightSymmetric": True, "ActivationSymmetric": symmetric, "OpTypesToExcludeOutputQuantization": ["MatMul"]}
    if symmetric:
        options |= {
            "AddQDQPairToWeight": True,
            "QuantizeBias": False,
            "DedicatedQDQPair": True,
            "OpTypesToExcludeOutputQuantization": kinds,
        }
    activations = QuantType.QInt8 if symmetric else QuantType.QUInt8
    quantizer = QDQQuantizer(
        model, True, settings.seven_bits, QuantType.QInt8, activations, calibrated.ranges, chosen, [], kinds, options
    )  # fmt: skip
    with _silent():
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    result: ModelProto = quantizer.model.model
    return result


def _calibrater(model: ModelProto, wanted: set[str], settings: Int8Settings, folder: Path) -> Any:
    import onnx
    from onnxruntime.quantization import calibrate as calibration

    source = folder / "model.onnx"
    onnx.save(model, source)
    augmented = str(folder / "augmented.onnx")
    if settings.method == "percentile":
        made = calibration.PercentileCalibrater(source, [], augmented, percentile=settings.percentile)
    elif settings.method == "entropy":
        made = calibration.EntropyCalibrater(source, [], augmented)
    else:
        made = calibration.MinMaxCalibrater(source, [], augmented)
    select = made.select_tensors_to_calibrate

    def chosen(graph: ModelProto) -> tuple[set[str], Any]:
        # The steps after the network would be watched too, some of them with gigabytes.
        tensors, values = select(graph)
        return tensors & wanted, values

    made.select_tensors_to_calibrate = chosen
    made.augment_graph()
    made.create_inference_session()
    made.infer_session = _Widened(made.infer_session)
    return made


class _Widened:
    """A session whose half outputs come as float32: half has too few numbers for the bins of a histogram."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

    def run(self, names: Any, feeds: Feeds) -> list[Any]:
        return [value.astype(np.float32) if value.dtype == np.float16 else value for value in self._session.run(names, feeds)]


def _in_types_of(model: ModelProto, ranges: Any) -> Any:
    # The quantizer makes scales in the type of the ranges, and ONNX wants that of the tensor.
    from onnxruntime.quantization.calibrate import TensorData, TensorsData

    half = {value.name for value in model.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    found = {}
    for name, data in ranges.items():
        kind = np.float16 if name in half else np.float32
        low, high = (np.asarray(value, dtype=kind) for value in data.range_value)
        found[name] = TensorData(lowest=low, highest=high)
    return TensorsData(ranges.calibration_method, found)


class _Reader:
    """The iterator that calibraters read."""

    def __init__(self, batches: Iterable[Feeds]) -> None:
        self._left: Iterator[Feeds] = iter(batches)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    # Calibraters print their progress to where results of commands go.
    with contextlib.redirect_stdout(io.StringIO()):
        yield
