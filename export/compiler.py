"""Whether AOTInductor can compile on this machine; PyTorch is imported only where there is a GPU to ask it for."""

import os
import shutil
from typing import Literal

from export.cuda_device import CudaDevice
from jdnas.errors import TargetError

_COMPILERS = ("g++", "clang++", "c++", "cl")
CompiledFor = Literal["cpu", "cuda"]


def check_compiler(device: CompiledFor) -> None:
    """Raise a TargetError unless packages can be compiled here for `device`."""
    asked = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ((asked,) if asked else _COMPILERS)):
        raise TargetError(f"AOTInductor compiles C++ and finds no compiler ({asked or ', '.join(_COMPILERS)}); install g++ or set CXX")
    if device == "cuda":
        CudaDevice("AOTInductor compiles for the device at hand: a package for CUDA")
