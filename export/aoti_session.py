"""Packages of AOTInductor (.pt2) as sessions."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export.cuda_device import CudaDevice
from export.session import Array, BoundCall, RuntimeInfo, check_feeds, first_line, physical_cores
from export.tensors import TENSORS, kinds_from_text
from jdnas.errors import CheckpointError


class AotiSession:
    """A compiled package on the device it was compiled for; on a CUDA device `bind` captures a CUDA graph.

    The threads of PyTorch are set while it is open, since compiled code asks for as many.
    """

    def __init__(self, path: Path, *, threads: int | None = None, where: str = "the package") -> None:
        import torch
        from torch._inductor import aoti_load_package

        if not path.is_file():
            raise CheckpointError(f"artifact {where} does not exist; make one with: jdnas export --runtime aoti")
        try:
            self._package: Any = aoti_load_package(str(path))
            self.properties: dict[str, str] = dict(self._package.get_metadata())
            self.inputs, self.outputs = kinds_from_text(self.properties[TENSORS])
        except Exception as error:  # from a broken archive to a library of another version of PyTorch
            raise CheckpointError(
                f"AOTInductor of PyTorch {torch.__version__} cannot load {where}: {first_line(error)}; export it again on this machine"
            ) from error
        self._torch = torch
        self._cuda = CudaDevice(f"{where} was compiled for a CUDA device and") if self.properties.get("jdnas.device") == "cuda" else None
        self._before, count = torch.get_num_threads(), threads or physical_cores()
        torch.set_num_threads(count)
        if self._cuda is not None:
            self._package = self._cuda.without_tf32(self._package)
        self.info = RuntimeInfo("aoti", torch.__version__, count, "cpu" if self._cuda is None else "cuda")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name."""
        if self._torch.get_num_threads() != self.info.threads:  # in this thread, which need not be the one that opened the package
            self._torch.set_num_threads(self.info.threads)
        found = self._package(*self._placed(feeds))
        return {name: np.asarray(tensor.cpu().numpy()) for name, tensor in zip(self.outputs, found, strict=True)}

    def bind(self, feeds: Mapping[str, Array]) -> BoundCall:
        """Put the inputs on the device and return a call without copies, on a CUDA device the replay of a graph if one can be captured."""
        placed, package = self._placed(feeds), self._package

        def launch() -> None:
            package(*placed)

        if self._cuda is None:
            return BoundCall(launch)
        replay, captured = self._cuda.captured(launch)
        self.info = replace(self.info, cuda_graph=captured)
        return self._cuda.bound(replay)

    def close(self) -> None:
        """Release the package and give PyTorch its threads back."""
        if self._package is not None:
            self._package = None
            self._torch.set_num_threads(self._before)

    def _placed(self, feeds: Mapping[str, Array]) -> list[Any]:
        check_feeds(self.inputs, feeds)
        arrays = [np.require(feeds[name], requirements=["C", "W"]) for name in self.inputs]
        return [self._torch.from_numpy(array).to("cpu" if self._cuda is None else "cuda") for array in arrays]
