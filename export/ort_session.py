"""ONNX Runtime sessions with one set of settings for engines, blocks and benchmarks."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from jdnas.errors import CheckpointError, InputError, MissingExtraError, TargetError, unknown_name

Array = np.ndarray[Any, np.dtype[Any]]
_PROVIDERS = {"ort-cpu": ("CPUExecutionProvider", "cpu", "cpu"), "ort-cuda": ("CUDAExecutionProvider", "cuda", "gpu")}
RUNTIMES = tuple(_PROVIDERS)
_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What ran: runtime name, its version, threads within an operator (CPU) and the execution provider."""

    name: str
    version: str
    threads: int
    provider: str


def physical_cores() -> int:
    """Return the physical cores that this process may use; hyperthreads are not counted."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))


def import_onnxruntime(runtime: str) -> Any:
    """Return the onnxruntime module; MissingExtraError names the extra, TargetError what this build of it lacks."""
    if runtime not in _PROVIDERS:
        raise TargetError(unknown_name("runtime", runtime, RUNTIMES))
    provider, _, extra = _PROVIDERS[runtime]
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime" if extra == "cpu" else "onnxruntime-gpu", extra) from error
    available = onnxruntime.get_available_providers()
    if provider not in available:
        hint = "replace onnxruntime by: pip install 'jdnas[gpu]'" if extra == "gpu" else "install: pip install 'jdnas[cpu]'"
        raise TargetError(f"runtime {runtime!r} needs {provider}; this onnxruntime has {', '.join(available)}; {hint}")
    return onnxruntime


class OrtSession:
    """One model in ONNX Runtime; `run` copies in and out, `bind` keeps inputs and outputs in place on the device.

    With `profile`, the beginning of a file name, the runtime writes down what each of its layers takes.
    """

    def __init__(
        self, model: Path | bytes, runtime: str = "ort-cpu", *, threads: int | None = None, where: str = "the model",
        profile: Path | None = None,
    ) -> None:  # fmt: skip
        ort = import_onnxruntime(runtime)
        provider, self._device, _ = _PROVIDERS[runtime]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or physical_cores()
        options.inter_op_num_threads = 1
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        providers = [provider] if provider == "CPUExecutionProvider" else [provider, "CPUExecutionProvider"]
        try:
            self._session = ort.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=providers)
        except Exception as error:
            raise CheckpointError(f"ONNX Runtime cannot load {where}: {_first_line(error)}; export it again") from error
        if provider not in self._session.get_providers():
            raise TargetError(f"runtime {runtime!r}: {provider} did not start on this machine; check the driver and CUDA libraries")
        self._ort = ort
        self.inputs = {i.name: (tuple(i.shape), _DTYPES.get(i.type)) for i in self._session.get_inputs()}
        self.outputs = {o.name: (tuple(o.shape), _DTYPES.get(o.type)) for o in self._session.get_outputs()}
        self.properties: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.info = RuntimeInfo(runtime, ort.__version__, options.intra_op_num_threads, provider)

    def check_feeds(self, feeds: Mapping[str, Array]) -> None:
        """Raise an InputError that names the first input whose shape or type is not the engine's."""
        for name, (shape, dtype) in self.inputs.items():
            got = feeds[name]
            if got.shape != shape or got.dtype != dtype:
                wanted = np.dtype(dtype).name
                raise InputError(f"input {name!r} must be {list(shape)} {wanted}, got {list(got.shape)} {got.dtype.name}")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name."""
        self.check_feeds(feeds)
        return dict(zip(self.outputs, self._session.run(None, dict(feeds)), strict=True))

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], None]:
        """Put inputs and outputs on the device once and return a call that runs to completion without any copy."""
        self.check_feeds(feeds)
        binding = self._session.io_binding()
        value = self._ort.OrtValue
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, value.ortvalue_from_numpy(np.ascontiguousarray(array), self._device, 0))
        for name, (shape, dtype) in self.outputs.items():
            binding.bind_ortvalue_output(name, value.ortvalue_from_shape_and_type(list(shape), dtype, self._device, 0))
        session = self._session

        def call() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return call

    def end_profiling(self) -> Path:
        """Stop the profile that the session was opened with and return its file, a Chrome trace."""
        return Path(self._session.end_profiling())


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
