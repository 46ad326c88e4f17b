"""Freed memory is kept for the next step."""

import subprocess
import sys

import pytest

LARGE_BLOCKS_FAULT = """
import ctypes, resource, sys
from jdnas.training.heap import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(3)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def block():
    place = libc.malloc(64 << 20)
    ctypes.memset(place, 1, 64 << 20)
    libc.free(place)
block()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    block()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", LARGE_BLOCKS_FAULT, how], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip("this system's allocator has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_large_blocks_are_mapped_once() -> None:
    """Five blocks of 64 MiB fault in no page of their own once the first has been freed; by default each does."""
    assert faults("kept") < 100 < faults("default")
