"""Two measurements on one device never overlap."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from export.runtimes import Processor
from jdnas.errors import TargetError
from latency.gpus import locked_clocks
from latency.targets import Target

DEFAULT_TIMEOUT_S = 600.0


@contextmanager
def held_device(target: Target) -> Iterator[None]:
    """Hold the target's device for measurements, at the clocks that the target asks for."""
    with exclusive_device(target.processor), locked_clocks(target.clocks.graphics_mhz if target.clocks else None):
        yield


@contextmanager
def exclusive_device(device: Processor, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Iterator[None]:
    """Hold the CPU or the GPU; TargetError with the owner's process id if it stays taken for `timeout_s`."""
    path = Path(tempfile.gettempdir()) / f"jdnas-measuring-{device}.lock"
    owner = path.with_suffix(".owner")
    lock = FileLock(path, mode=0o666)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout as error:
        who = owner.read_text(encoding="utf-8") if owner.is_file() else "unknown"
        raise TargetError(f"another measurement (process {who}) holds the {device} for more than {timeout_s:g} s; wait for it") from error
    try:
        with suppress(OSError):  # what another user's process left there, when it was killed
            owner.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            owner.unlink()
        lock.release()
