"""Artifacts ready to be timed on a target."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from export.runners import OnnxRuntimeRunner, Runner
from jdnas.errors import TargetError
from latency.targets import Target


def open_bound(path: Path, target: Target) -> tuple[Runner, Callable[[], None]]:
    """Load an artifact on the target's runtime; return the runner and a call that infers one batch of noise that fills the canvas."""
    runner = OnnxRuntimeRunner(path, target.runtime, threads=target.threads)
    info = runner.metadata
    if (info.batch, info.precision) != (target.batch, target.precision):
        raise TargetError(
            f"artifact {path} has batch {info.batch} and {info.precision}; target {target.name!r} asks for batch {target.batch} and "
            f"{target.precision}; export it for that target"
        )
    images = np.random.default_rng(0).standard_normal((info.batch, 3, *info.size_hw)).astype(np.float32)
    return runner, runner.bind(images, np.array([info.size_hw] * info.batch, np.int64))
