"""OpenVINO sessions on the CPU, from the same ONNX files as ONNX Runtime's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.session import Array, BoundCall, Kind, RuntimeInfo, check_feeds, first_line, physical_cores
from export.tensors import kinds_of, load_graph, properties_of
from jdnas.errors import CheckpointError, MissingExtraError


def import_openvino() -> Any:
    """Return the openvino module; MissingExtraError names the extra."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    return openvino


class OpenVinoSession:
    """One ONNX model compiled by OpenVINO for the CPU; with `profile`, it can say what each of its layers takes."""

    def __init__(self, model: Path | bytes, *, threads: int | None = None, where: str = "the model", profile: bool = False) -> None:
        ov = import_openvino()
        graph = load_graph(model, where)
        count = threads or physical_cores()
        settings = {
            # Where a processor has bfloat16 units, OpenVINO would use them for graphs in fp32.
            "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(count),
            "PERF_COUNT": "YES" if profile else "NO",
        }  # fmt: skip
        try:
            core = ov.Core()
            self._compiled: Any = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", settings)
        except Exception as error:
            raise CheckpointError(f"OpenVINO cannot load {where}: {first_line(error)}; export it with: --runtime openvino") from error
        self._ov = ov
        self.inputs, self.outputs = kinds_of(graph)
        self.properties = properties_of(graph)
        self.info = RuntimeInfo("openvino", ov.__version__.split("-")[0], count, "cpu")
        self._request: Any = None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name."""
        check_feeds(self.inputs, feeds)
        if self._request is None:
            self._request = self._compiled.create_infer_request()
        self._filled(self._request, feeds)()
        return {name: self._result(name, kind) for name, kind in self.outputs.items()}

    def bind(self, feeds: Mapping[str, Array]) -> BoundCall:
        """Let a request of its own read the inputs where they are and return a call that runs it."""
        check_feeds(self.inputs, feeds)
        return self._filled(self._compiled.create_infer_request(), feeds)

    def layers(self, feeds: Mapping[str, Array], runs: int) -> list[tuple[str, str, float]]:
        """Run some times and return name, operator and mean milliseconds of each layer that took any; needs `profile`."""
        request = self._compiled.create_infer_request()
        call = self._filled(request, feeds)
        sums: dict[tuple[str, str], float] = {}
        for _ in range(runs):
            call()
            for one in request.profiling_info:
                key = one.node_name, one.node_type
                sums[key] = sums.get(key, 0.0) + one.real_time.total_seconds() * 1e3 / runs
        return [(name, kind, ms) for (name, kind), ms in sums.items() if ms > 0]

    def close(self) -> None:
        """Release the compiled model."""
        self._request, self._compiled = None, None

    def _filled(self, request: Any, feeds: Mapping[str, Array]) -> BoundCall:
        tensors = {name: self._ov.Tensor(np.require(feeds[name], requirements=["C", "W"]), shared_memory=True) for name in self.inputs}
        for name, tensor in tensors.items():
            request.set_tensor(name, tensor)

        def call() -> None:
            tensors  # noqa: B018  # they own the memory that the request reads
            request.start_async()
            request.wait()

        return BoundCall(call)

    def _result(self, name: str, kind: Kind) -> Array:
        shape, dtype = kind
        return np.array(self._request.get_tensor(name).data, dtype=dtype).reshape(shape)
