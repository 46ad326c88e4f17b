"""Whole detectors with random weights, exported once and measured in sessions of their own."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from export.artifact import INPUT_NAMES
from export.runtimes import open_session
from jdnas.models.detector import build
from latency.exports import export_for, export_path
from latency.plan import Case, case_name
from latency.subjects import noise
from latency.targets import Target
from latency.timing import Timing, steadiest, time_call

_ENGINE_SECONDS = 0.1


class PreparedEngine:
    """A detector with random weights, exported into `engines_dir` unless it is there; each measurement is a session of its own."""

    def __init__(self, case: Case, target: Target, engines_dir: Path) -> None:
        self._target = target
        spec, self._size_hw = case
        self._path = export_path(f"{case_name(case)}_b{target.batch}", engines_dir, target)
        if not self._path.is_file():
            classes = [str(label) for label in range(1, spec.num_classes + 1)]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                state = build(spec).state_dict()
            export_for(target, spec, state, size_hw=self._size_hw, batch=target.batch, path=self._path, classes=classes)

    def measure(self) -> Timing:
        """Open a session, measure, and close it."""
        with self._call() as call:
            return steadiest(call, seconds=_ENGINE_SECONDS)

    def glance(self, seconds: float) -> Timing:
        """Open a session, time it once for about so long, whatever disturbs it, and close it."""
        with self._call() as call:
            return time_call(call, seconds=seconds)

    @contextmanager
    def _call(self) -> Iterator[Callable[[], None]]:
        session = open_session(self._path, self._target.runtime, threads=self._target.threads, where=str(self._path))
        images, sizes_hw = noise(self._size_hw, self._target.batch)
        try:
            yield session.bind(dict(zip(INPUT_NAMES, (images, sizes_hw), strict=True)))
        finally:
            session.close()


def measure_engine(case: Case, target: Target, engines_dir: Path | None = None) -> Timing:
    """Export a detector with random weights and measure it whole."""
    with tempfile.TemporaryDirectory() as temporary:
        return PreparedEngine(case, target, engines_dir or Path(temporary)).measure()
