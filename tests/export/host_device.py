"""A stand-in for the CUDA device whose memory is the host's."""

from time import perf_counter

import numpy as np
import torch

from export.cuda_device import CudaDevice
from export.session import BoundCall


class HostDevice(CudaDevice):
    name = "NVIDIA L4"
    capability = (8, 9)
    stream_handle = 7
    captures = 0

    def __init__(self, what="this runtime"):
        self._torch = torch

    def buffer(self, shape, dtype):
        return torch.zeros(shape, dtype=getattr(torch, np.dtype(dtype).name))

    def upload(self, buffer, array):
        buffer.copy_(torch.from_numpy(np.require(array, requirements=["C", "W"])))

    def wait(self):
        pass

    def captured(self, launch):
        type(self).captures += 1
        launch()
        return launch, True

    def timed(self, launch):
        def call():
            start = perf_counter()
            launch()
            return 1e3 * (perf_counter() - start)

        return call

    def bound(self, launch):
        return BoundCall(launch, self.timed(launch))
