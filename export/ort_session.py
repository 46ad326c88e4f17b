"""ONNX Runtime sessions with one set of settings for engines, blocks and benchmarks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.cuda_device import CudaDevice, find_cuda
from export.session import Array, BoundCall, Kind, RuntimeInfo, check_feeds, first_line, is_static, physical_cores
from jdnas.errors import CheckpointError, MissingExtraError, TargetError, unknown_name

_PROVIDERS = {"ort-cpu": ("CPUExecutionProvider", "cpu", "cpu"), "ort-cuda": ("CUDAExecutionProvider", "cuda", "gpu")}
_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(bool)": np.bool_,
}  # fmt: skip


def import_onnxruntime(runtime: str) -> Any:
    """Return the onnxruntime module; MissingExtraError names the extra, TargetError what this build of it lacks."""
    if runtime not in _PROVIDERS:
        raise TargetError(unknown_name("runtime", runtime, _PROVIDERS))
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

    On a CUDA device the session captures a CUDA graph and replays it, with one set of buffers on the device, unless the graph has
    operators that run on the CPU. With `profile`, the beginning of a file name, the runtime writes down what each of its layers takes.
    """

    def __init__(
        self, model: Path | bytes, runtime: str = "ort-cpu", *, threads: int | None = None, where: str = "the model",
        profile: Path | None = None,
    ) -> None:  # fmt: skip
        ort = import_onnxruntime(runtime)
        provider, self._place, _ = _PROVIDERS[runtime]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or physical_cores()
        options.inter_op_num_threads = 1
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        source, self._ort = model if isinstance(model, bytes) else str(model), ort
        self._cuda: CudaDevice | None = None
        captured = False
        try:
            if self._place == "cpu":
                self._session = ort.InferenceSession(source, options, providers=[provider])
            else:
                self._cuda = find_cuda()
                self._session, captured = self._on_cuda(source, options, graph=profile is None)
        except Exception as error:
            raise CheckpointError(f"ONNX Runtime cannot load {where}: {first_line(error)}; export it again") from error
        if provider not in self._session.get_providers():
            raise TargetError(f"runtime {runtime!r}: {provider} did not start on this machine; check the driver and CUDA libraries")
        self.inputs = {value.name: _kind(value) for value in self._session.get_inputs()}
        self.outputs = {value.name: _kind(value) for value in self._session.get_outputs()}
        self.properties: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.info = RuntimeInfo(runtime, ort.__version__, options.intra_op_num_threads, provider, captured)
        self._held: dict[str, Any] = {}
        self._binding: Any = None

    def _on_cuda(self, source: str | bytes, options: Any, *, graph: bool) -> tuple[Any, bool]:
        # TF32 would round what is called fp32 to ten bits.
        settings = {"use_tf32": "0"}
        if self._cuda is not None:  # a stream that events can be recorded on
            settings["user_compute_stream"] = str(self._cuda.stream_handle)
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        if graph:
            try:
                wanted = [settings | {"enable_cuda_graph": "1"}, {}]
                session = self._ort.InferenceSession(source, options, providers=providers, provider_options=wanted)
                if is_static({value.name: _kind(value) for value in session.get_inputs()}):
                    return session, True
            except Exception:  # the graph has parts that cannot be captured: it still runs
                pass
        return self._ort.InferenceSession(source, options, providers=providers, provider_options=[settings, {}]), False

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name."""
        check_feeds(self.inputs, feeds)
        if not self.info.cuda_graph:
            return dict(zip(self.outputs, self._session.run(None, dict(feeds)), strict=True))
        self._fill(feeds)
        self._launch()
        return {name: np.array(self._held[name].numpy()) for name in self.outputs}

    def bind(self, feeds: Mapping[str, Array]) -> BoundCall:
        """Put inputs and outputs on the device once and return a call that runs to completion without any copy."""
        check_feeds(self.inputs, feeds)
        if self.info.cuda_graph:  # what is captured are these addresses
            self._fill(feeds)
            binding, held = self._binding, self._held
        else:
            binding, held = self._new_binding(feeds)
        session = self._session

        def launch(options: Any = None) -> None:
            held  # noqa: B018  # on a CPU these own the memory that is read
            session.run_with_iobinding(binding, options)

        def call() -> None:
            launch()
            binding.synchronize_outputs()

        if self._cuda is None:
            return BoundCall(call)
        options = self._asynchronous()
        return BoundCall(call, self._cuda.timed(lambda: launch(options)))

    def close(self) -> None:
        """Release the session and its buffers."""
        self._binding, self._session, self._held = None, None, {}

    def end_profiling(self) -> Path:
        """Stop the profile that the session was opened with and return its file, a Chrome trace."""
        return Path(self._session.end_profiling())

    def _new_binding(self, feeds: Mapping[str, Array]) -> tuple[Any, dict[str, Any]]:
        binding, value = self._session.io_binding(), self._ort.OrtValue
        held = {name: value.ortvalue_from_numpy(np.ascontiguousarray(feeds[name]), self._place, 0) for name in self.inputs}
        for name, one in held.items():
            binding.bind_ortvalue_input(name, one)
        for name, (shape, dtype) in self.outputs.items():
            held[name] = value.ortvalue_from_shape_and_type(list(shape), dtype, self._place, 0)
            binding.bind_ortvalue_output(name, held[name])
        return binding, held

    def _fill(self, feeds: Mapping[str, Array]) -> None:
        if self._binding is None:
            self._binding, self._held = self._new_binding(feeds)
            for _ in range(2):  # the first run allocates, the second one is captured
                self._launch()
            return
        for name in self.inputs:
            self._held[name].update_inplace(np.ascontiguousarray(feeds[name]))

    def _launch(self) -> None:
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def _asynchronous(self) -> Any:
        options = self._ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return options


def _kind(value: Any) -> Kind:
    return tuple(side if isinstance(side, int) else str(side) for side in value.shape), _DTYPES.get(value.type, np.void)
