"""TensorRT-RTX engines from ONNX, built without a GPU for a named compute capability."""

from pathlib import Path
from typing import Any

from jdnas.atomic import write_atomically
from jdnas.errors import CheckpointError, JdnasError, MissingExtraError, TargetError, unknown_name


def build_engine(onnx_path: Path, engine_path: Path, *, compute_capability: str = "SM89") -> Path:
    """Build an engine for GPUs of `compute_capability` and return its path; no GPU is needed.

    MissingExtraError without the package; TargetError for a compute capability it cannot build for; CheckpointError for a file that
    is no ONNX; JdnasError with the builder's own words where it refuses the graph.
    """
    trt = _import_tensorrt_rtx()
    capabilities = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    if compute_capability not in capabilities:
        raise TargetError(unknown_name("compute capability", compute_capability, capabilities))
    if not onnx_path.is_file():
        raise CheckpointError(f"artifact {onnx_path} does not exist; make one with: jdnas export")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    if not parser.parse(onnx_path.read_bytes()):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise CheckpointError(f"TensorRT-RTX {trt.__version__} cannot parse {onnx_path}: {' '.join(errors.split())[:500]}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(trt.ComputeCapability.__members__[compute_capability], 0):
        raise TargetError(f"TensorRT-RTX {trt.__version__} does not build for {compute_capability}")
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise JdnasError(f"TensorRT-RTX {trt.__version__} could not build an engine for {compute_capability} from {onnx_path}")
    write_atomically(engine_path, bytes(engine))
    return engine_path


def _import_tensorrt_rtx() -> Any:
    try:
        import tensorrt_rtx
    except ImportError as error:
        raise MissingExtraError("tensorrt-rtx-cu13", "tensorrt-rtx") from error
    return tensorrt_rtx
