"""Running exported detectors: one contract for all runtimes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from export.artifact import INPUT_NAMES, OUTPUT_NAMES, ArtifactInfo
from export.feeding import from_normalized
from export.runtimes import open_session
from export.session import Array, BoundCall, Kind, RuntimeInfo, Session

if TYPE_CHECKING:  # Running an artifact takes no PyTorch, unless PyTorch is what runs it.
    from torch import Tensor


class Runner(Protocol):
    """An artifact loaded into a runtime; closed by `close` or at the end of a `with`."""

    @property
    def metadata(self) -> ArtifactInfo:
        """What the artifact says of itself."""

    @property
    def runtime(self) -> RuntimeInfo:
        """What runs it."""

    def run(self, images: Array, sizes_hw: Array) -> dict[str, Array]:
        """Map images in the artifact's input form (see `ArtifactInfo`) and sizes `[B, 2]` int64 to boxes, scores, labels and count.

        An artifact of whole images does not look at the sizes.
        """

    def bind(self, images: Array, sizes_hw: Array) -> BoundCall:
        """Put the inputs on the device and return a call that runs to completion without copies, for timing."""

    def close(self) -> None:
        """Release the runtime's memory."""

    def __enter__(self) -> Self:
        """Return this runner."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close this runner."""


@dataclass(frozen=True, slots=True)
class RunnerDetections:
    """Detections of a runner, shaped like those of the PyTorch detector."""

    boxes_xyxy: "Tensor"
    scores: "Tensor"
    labels: "Tensor"
    count: "Tensor"


class EngineRunner:
    """An artifact in a session of any runtime."""

    def __init__(self, session: Session, where: str) -> None:
        self._session: Session | None = session
        self.metadata = ArtifactInfo.from_properties(session.properties, where)

    @property
    def runtime(self) -> RuntimeInfo:
        """What runs it."""
        return self._open.info

    @property
    def inputs(self) -> Mapping[str, Kind]:
        """Shape and type of the inputs by name."""
        return self._open.inputs

    def run(self, images: Array, sizes_hw: Array) -> dict[str, Array]:
        """Map images and sizes to boxes, scores, labels and count; InputError for another shape than the artifact's."""
        return self._open.run(self._feeds(images, sizes_hw))

    def bind(self, images: Array, sizes_hw: Array) -> BoundCall:
        """Put the inputs on the device and return a call that runs to completion without copies, for timing."""
        return self._open.bind(self._feeds(images, sizes_hw))

    def close(self) -> None:
        """Release the session."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _feeds(self, images: Array, sizes_hw: Array) -> dict[str, Array]:
        given = dict(zip(INPUT_NAMES, (images, sizes_hw), strict=True))
        return {name: given[name] for name in self._open.inputs}

    @property
    def _open(self) -> Session:
        if self._session is None:
            raise ValueError("the runner is closed")
        return self._session


def open_runner(path: Path, runtime: str = "ort-cpu", *, threads: int | None = None) -> Runner:
    """Load an artifact into a runtime (ort-cpu, ort-cuda, openvino, aoti, tensorrt, tensorrt-rtx).

    CheckpointError for a file that is missing, broken or not ours; MissingExtraError or TargetError where the runtime cannot run here.
    """
    session = open_session(path, runtime, threads=threads, where=str(path))
    try:
        return EngineRunner(session, str(path))
    except BaseException:
        session.close()
        raise


def predictor(runner: Runner) -> Callable[["Tensor", "Tensor"], RunnerDetections]:
    """Return `predict(images [B, 3, H, W], sizes_hw [B, 2])` of normalized canvases for any B and any input form of the artifact.

    Batches are cut and padded to the runner's own; boxes are in canvas pixels.
    """
    import torch

    info, size = runner.metadata, runner.metadata.batch

    def predict(images: "Tensor", sizes_hw: "Tensor") -> RunnerDetections:
        pixels, sizes = images.detach().cpu().float().numpy(), sizes_hw.cpu().numpy().astype(np.int64)
        slices = [slice(at, at + size) for at in range(0, len(pixels), size)]
        parts = [padded_run(runner, from_normalized(info, pixels[one], sizes[one]), sizes[one]) for one in slices]
        return RunnerDetections(*(torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in OUTPUT_NAMES))

    return predict


def padded_run(runner: Runner, images: Array, sizes_hw: Array) -> dict[str, Array]:
    """Run 1 to B images, where B is the runner's batch, and return as many rows of each output."""
    missing = runner.metadata.batch - len(images)
    if missing:
        images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        sizes_hw = np.concatenate([sizes_hw, np.repeat(sizes_hw[-1:], missing, 0)])
    outputs = runner.run(np.ascontiguousarray(images), np.ascontiguousarray(sizes_hw))
    return {name: array[: len(array) - missing] for name, array in outputs.items()}
