"""The runtimes that engines run in: what each loads, where it runs, and which package it needs. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from export.session import Session
from jdnas.errors import CheckpointError, TargetError, unknown_name

Processor = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime: suffixes of the files it loads (what `jdnas export` writes for it first), the package it needs, and its processor.

    No processor: it runs on the one that a file was compiled for.
    """

    name: str
    suffixes: tuple[str, ...]
    package: str
    processor: Processor | None


_ENGINES = (".engine", ".plan", ".onnx")
RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("ort-cpu", (".onnx",), "onnxruntime", "cpu"),
        Runtime("ort-cuda", (".onnx",), "onnxruntime-gpu", "gpu"),
        Runtime("openvino", (".onnx",), "openvino", "cpu"),
        Runtime("aoti", (".pt2",), "torch", None),
        Runtime("tensorrt", _ENGINES, "tensorrt", "gpu"),
        Runtime("tensorrt-rtx", _ENGINES, "tensorrt-rtx-cu13", "gpu"),
    )
}
SUFFIXES = tuple(dict.fromkeys(suffix for runtime in RUNTIMES.values() for suffix in runtime.suffixes))


def runtime_named(name: str) -> Runtime:
    """Return a runtime; a TargetError lists the known ones."""
    if name not in RUNTIMES:
        raise TargetError(unknown_name("runtime", name, RUNTIMES))
    return RUNTIMES[name]


def require(name: str, processor: Processor) -> None:
    """Raise a MissingExtraError that names the package, or a TargetError that gives the reason, unless a runtime can run here."""
    runtime_named(name)
    if name in ("ort-cpu", "ort-cuda"):
        from export.cuda_device import has_driver
        from export.ort_session import import_onnxruntime

        import_onnxruntime(name)
        if name == "ort-cuda" and not has_driver():  # the package lists its CUDA provider on every machine
            raise TargetError(
                "runtime 'ort-cuda' needs an NVIDIA GPU, and there is no CUDA driver here; its engines can be run where one is"
            )
    elif name == "openvino":
        from export.openvino_session import import_openvino

        import_openvino()
    elif name == "aoti":
        from export.compiler import check_compiler

        check_compiler("cpu" if processor == "cpu" else "cuda")
    else:
        from export.cuda_device import CudaDevice
        from export.tensorrt_api import load_api
        from export.tensorrt_engine import place_here

        api = load_api(name)
        place_here(api, CudaDevice(f"running engines of {api.name}"))


def open_session(model: Path | bytes, runtime: str, *, threads: int | None = None, where: str = "the model") -> Session:
    """Load a file, or a graph's bytes where the runtime reads ONNX, into a runtime.

    CheckpointError for what is missing, broken or of another kind; MissingExtraError or TargetError where the runtime cannot run here.
    """
    known = runtime_named(runtime)
    if isinstance(model, Path) and not model.is_file():
        raise CheckpointError(f"artifact {where} does not exist; make one with: jdnas export")
    if isinstance(model, Path) and model.suffix not in known.suffixes:
        raise CheckpointError(
            f"runtime {runtime!r} loads {', '.join(known.suffixes)}, got {where}; make one with: jdnas export --runtime {runtime}"
        )
    if runtime in ("ort-cpu", "ort-cuda"):
        from export.ort_session import OrtSession

        return OrtSession(model, runtime, threads=threads, where=where)
    if runtime == "openvino":
        from export.openvino_session import OpenVinoSession

        return OpenVinoSession(model, threads=threads, where=where)
    if runtime == "aoti":
        from export.aoti_session import AotiSession

        if isinstance(model, bytes):
            raise CheckpointError(f"runtime 'aoti' loads packages, not graphs; got the bytes of {where}")
        return AotiSession(model, threads=threads, where=where)
    from export.tensorrt_session import TensorRtSession

    return TensorRtSession(model, runtime, where=where)
