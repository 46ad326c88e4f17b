"""The memory that a training on a CPU allocates and frees in every step."""

import ctypes
import sys
from functools import cache

# Parameters of glibc's mallopt, <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2**30


@cache
def keep_freed_memory() -> bool:
    """Let this process keep freed blocks of up to a GiB for the next ones of their size; return whether its allocator can.

    Feature maps of a few megabytes are otherwise given back to the system and mapped anew, page by page, in every layer of every
    step, which takes up to a quarter of a step (`benchmarks/freed_memory.py`). Holds for the whole process, once; only glibc has it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, KEPT_BYTES) == 1 for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
