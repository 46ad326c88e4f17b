"""The CUDA device as runtimes need it, through PyTorch: buffers, a stream, events and graphs."""

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from export.session import Array, BoundCall
from jdnas.errors import TargetError

_WARMUP = 3
Launch = Callable[[], Any]


class CudaDevice:
    """The current CUDA device with a stream of its own; a TargetError where PyTorch finds none."""

    def __init__(self, what: str = "this runtime") -> None:
        absent = f"{what} needs an NVIDIA GPU, and there is no CUDA device here; its engines can be built and run where one is"
        if not has_driver():
            raise TargetError(absent)
        import torch

        if not torch.cuda.is_available():
            raise TargetError(absent)
        self._torch = torch
        self.stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @property
    def name(self) -> str:
        """The device's name as the driver gives it."""
        return str(self._torch.cuda.get_device_name())

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability, such as (8, 9)."""
        major, minor = self._torch.cuda.get_device_capability()
        return int(major), int(minor)

    @property
    def stream_handle(self) -> int:
        """The stream as the number that C interfaces take."""
        return int(self.stream.cuda_stream)

    def buffer(self, shape: Sequence[int], dtype: type[np.generic]) -> Any:
        """Return a tensor on the device."""
        return self._torch.zeros(shape, dtype=getattr(self._torch, np.dtype(dtype).name), device="cuda")

    def upload(self, buffer: Any, array: Array) -> None:
        """Copy an array into a buffer, converted to the buffer's type."""
        buffer.copy_(self._torch.from_numpy(np.require(array, requirements=["C", "W"])))
        self.wait()

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        self._torch.cuda.synchronize()

    def captured(self, launch: Launch) -> tuple[Launch, bool]:
        """Warm `launch` up on the stream and return its replay as a CUDA graph, and whether it could be captured."""
        torch = self._torch
        with torch.cuda.stream(self.stream):
            for _ in range(_WARMUP):
                launch()
        self.wait()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                launch()
        except RuntimeError:  # something in it synchronizes or allocates
            torch.cuda.synchronize()
            return launch, False
        return graph.replay, True

    def without_tf32(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` with convolutions in full fp32; with TF32, the default of PyTorch, they would round to ten bits."""
        flags = self._torch.backends.cudnn.flags

        def exact(*inputs: Any) -> Any:
            with flags(enabled=True, allow_tf32=False):
                return call(*inputs)

        return exact

    def timed(self, launch: Launch) -> Callable[[], float]:
        """Return a call that launches on the stream and returns the milliseconds between events before and after."""
        torch = self._torch
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def call() -> float:
            with torch.cuda.stream(self.stream):
                start.record(self.stream)
                launch()
                end.record(self.stream)
            end.synchronize()
            return float(start.elapsed_time(end))

        return call

    def bound(self, launch: Launch) -> BoundCall:
        """Return `launch` as a call that waits for its end, with the device's clock."""

        def call() -> None:
            with self._torch.cuda.stream(self.stream):
                launch()
            self.stream.synchronize()

        return BoundCall(call, self.timed(launch))


def has_driver() -> bool:
    """Tell whether there is a CUDA driver; asking PyTorch would mean to import it."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def find_cuda() -> CudaDevice | None:
    """Return the CUDA device, or None where PyTorch has none (ONNX Runtime may still have one)."""
    try:
        return CudaDevice()
    except (ImportError, TargetError):
        return None
