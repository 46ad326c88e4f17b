"""Engines of TensorRT and TensorRT-RTX as sessions on the GPU of this machine."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export.cuda_device import CudaDevice, Launch
from export.session import Array, BoundCall, RuntimeInfo, check_feeds
from export.tensorrt_api import Api, load_api
from export.tensorrt_engine import SUFFIXES, check_match, open_cached, place_here, read_record
from export.tensors import TENSORS, kinds_from_text, load_graph, properties_of
from jdnas.errors import CheckpointError, JdnasError


class TensorRtSession:
    """An engine file, or an ONNX file whose engine is built once and kept in the cache.

    Calls replay a CUDA graph where one can be captured. Inputs and outputs lie in one set of buffers on the device. TensorRT 8.6 narrows
    INT64 tensors to INT32; they are converted here, so that callers see the types of the ONNX file with every version.
    """

    def __init__(
        self, model: Path | bytes, runtime: str, *, where: str = "the model", api: Api | None = None, cuda: CudaDevice | None = None
    ) -> None:
        api = api or load_api(runtime)
        self._cuda = cuda or CudaDevice(f"running engines of {api.name}")
        place = place_here(api, self._cuda)
        self._runtime: Any = api.trt.Runtime(api.trt.Logger(api.trt.Logger.ERROR))
        load = self._runtime.deserialize_cuda_engine
        if isinstance(model, Path) and model.suffix in SUFFIXES:
            record = read_record(model)
            check_match(record, api, place, where)
            self._engine = load(model.read_bytes())
        else:
            graph = load_graph(model, where)
            precision = properties_of(graph).get("jdnas.precision", '"fp32"').strip('"')
            self._engine, record = open_cached(api, graph, where, place, precision, load)
        self.properties = dict(record.properties)
        self.inputs, self.outputs = kinds_from_text(self.properties[TENSORS])
        if self._engine is None:
            raise CheckpointError(f"{api.name} cannot load engine {where}; it is damaged or of another version: export it again")
        self._context: Any = self._engine.create_execution_context()
        self._buffers = {name: self._buffer(api, name) for name in (*self.inputs, *self.outputs)}
        self._replay: Launch | None = None
        self.info = RuntimeInfo(api.runtime, api.text, 1, "cuda")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name."""
        self.bind(feeds)()
        return {name: np.array(self._buffers[name].cpu().numpy(), dtype) for name, (_, dtype) in self.outputs.items()}

    def bind(self, feeds: Mapping[str, Array]) -> BoundCall:
        """Copy the inputs to the device and return the replay of the engine's CUDA graph, or its launch where it cannot be captured."""
        check_feeds(self.inputs, feeds)
        for name in self.inputs:
            self._cuda.upload(self._buffers[name], feeds[name])
        if self._replay is None:
            self._replay, captured = self._cuda.captured(self._enqueue)
            self.info = replace(self.info, cuda_graph=captured)
        return self._cuda.bound(self._replay)

    def close(self) -> None:
        """Release the engine and its buffers."""
        self._replay, self._context, self._engine, self._runtime = None, None, None, None
        self._buffers = {}

    def _buffer(self, api: Api, name: str) -> Any:
        shape = tuple(self._engine.get_tensor_shape(name))
        buffer = self._cuda.buffer(shape, api.numpy_type(self._engine.get_tensor_dtype(name)))
        self._context.set_tensor_address(name, buffer.data_ptr())
        return buffer

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream_handle):
            raise JdnasError("TensorRT could not run the engine; its own messages above say why")
