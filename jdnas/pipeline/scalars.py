"""Scalars of a run for TensorBoard (setting `tensorboard`): losses and learning rates of trainings, AP, and the search's scores."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jdnas.errors import MissingExtraError
from jdnas.pipeline.progress import StepCallback
from jdnas.training.schedule import learning_rate
from jdnas.training.settings import TrainSettings


def check_tensorboard() -> None:
    """Raise a MissingExtraError where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise MissingExtraError("tensorboard", "tensorboard")


class Scalars:
    """Writes event files into a folder, or nothing where there is none; the first scalar makes the folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._writer: Any = None

    def add(self, name: str, value: float, step: int) -> None:
        """Record one value at a step."""
        if self._folder is None:
            return
        if self._writer is None:
            tensorboard: Any = import_module("torch.utils.tensorboard")
            self._writer = tensorboard.SummaryWriter(str(self._folder), flush_secs=10)
        self._writer.add_scalar(name, value, step)

    def watching(self, name: str, settings: TrainSettings, steps: int, on_step: StepCallback | None) -> StepCallback | None:
        """Return `on_step` of a training of `steps` steps that records its loss and learning rate as well."""
        if self._folder is None:
            return on_step

        def record(step: int, loss: float) -> None:
            self.add(f"{name}/loss", loss, step)
            self.add(f"{name}/learning_rate", learning_rate(step - 1, steps, settings), step)
            if on_step is not None:
                on_step(step, loss)

        return record

    def losses(self, name: str, on_step: StepCallback | None) -> StepCallback | None:
        """Return `on_step` that records the loss of each step as well."""
        if self._folder is None:
            return on_step

        def record(step: int, loss: float) -> None:
            self.add(f"{name}/loss", loss, step)
            if on_step is not None:
                on_step(step, loss)

        return record

    def flush(self) -> None:
        """Write what is waiting to be written."""
        if self._writer is not None:
            self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.flush()


NO_SCALARS = Scalars()
