"""One contract for graphs that are loaded into a runtime, whatever the runtime."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import psutil

from jdnas.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
Kind = tuple[tuple[int | str, ...], type[np.generic]]  # shape and type of a tensor; a named dimension is free


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What runs: runtime name, its version, threads within an operator (CPU), the execution provider, and whether it replays a CUDA graph.

    A session that captures the graph for its first bound call does not replay one before.
    """

    name: str
    version: str
    threads: int
    provider: str
    cuda_graph: bool = False


@dataclass(frozen=True, slots=True)
class BoundCall:
    """A call with inputs and outputs in place on the device; it runs to completion and copies nothing.

    `device_ms`, where the device has a clock of its own, does the same and returns the milliseconds between two of its events.
    """

    run: Callable[[], None]
    device_ms: Callable[[], float] | None = None

    def __call__(self) -> None:
        """Run once."""
        self.run()


class Session(Protocol):
    """A graph in a runtime: named inputs and outputs of static shapes, and the text properties that came with it."""

    @property
    def inputs(self) -> Mapping[str, Kind]:
        """Shape and type by name."""

    @property
    def outputs(self) -> Mapping[str, Kind]:
        """Shape and type by name."""

    @property
    def properties(self) -> Mapping[str, str]:
        """Text properties of the file."""

    @property
    def info(self) -> RuntimeInfo:
        """What runs it."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name; an InputError for another shape or type than the graph's."""

    def bind(self, feeds: Mapping[str, Array]) -> BoundCall:
        """Put inputs and outputs on the device and return a call that copies nothing; the next `bind` or `run` may replace the inputs."""

    def close(self) -> None:
        """Release the runtime's memory."""


def check_feeds(inputs: Mapping[str, Kind], feeds: Mapping[str, Array]) -> None:
    """Raise an InputError that names the first input whose shape or type is not the engine's."""
    for name, (shape, dtype) in inputs.items():
        got = feeds[name]
        fits = len(got.shape) == len(shape) and all(
            isinstance(want, str) or want == side for want, side in zip(shape, got.shape, strict=True)
        )
        if not fits or got.dtype != dtype:
            wanted = np.dtype(dtype).name
            raise InputError(f"input {name!r} must be {list(shape)} {wanted}, got {list(got.shape)} {got.dtype.name}")


def physical_cores() -> int:
    """Return the physical cores that this process may use; hyperthreads are not counted."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))


def first_line(error: Exception) -> str:
    """Return the beginning of what a runtime says, on one line."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def is_static(kinds: Mapping[str, Kind]) -> bool:
    """Tell whether all shapes are known."""
    return all(isinstance(side, int) for shape, _ in kinds.values() for side in shape)
