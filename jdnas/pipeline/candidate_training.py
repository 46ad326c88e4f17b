"""The training of one candidate, with what may go wrong in it: memory that runs out, a loss that is never finite, a poor beginning."""

import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from jdnas.distill.teacher import Teacher
from jdnas.errors import TrainingError
from jdnas.models.weights import State
from jdnas.pipeline.context import Context
from jdnas.pipeline.detector_training import evaluate_detector, train_detector
from jdnas.search.workshop import EarlyLook, size_key
from jdnas.spec import DetectorSpec
from jdnas.training.loop import FitReport, OnStep, Resume
from jdnas.training.schedule import steps_of
from jdnas.training.settings import TrainSettings

# What PyTorch's allocators say where they raise no error of their own: on the CPU, and inside CUDA's libraries.
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "alloc_failed")


class Stopped(Exception):  # noqa: N818  (not an error: the candidate had its chance)
    """A training was ended by the verdict after its first epochs."""

    def __init__(self, verdict: str, images: int, aps: Mapping[str, float]) -> None:
        super().__init__(verdict)
        self.verdict, self.images, self.aps = verdict, images, aps


@dataclass(frozen=True)
class Trained:
    """A candidate's weights and optimizer state after its training; `note` says what was unusual about it."""

    state: State
    momentum: State | None
    report: FitReport
    note: str | None = None


@dataclass
class FirstEpochs:
    """Evaluates a candidate after the epochs of its `look`; `aps` (per `size_key`) are there from then on."""

    context: Context
    student: DetectorSpec
    look: EarlyLook
    settings: TrainSettings
    aps: Mapping[str, float] | None = None

    def __call__(self, step: int, weights: State) -> None:
        """Look at the weights after a step; raises `Stopped` where the verdict says so."""
        images, batch = len(self.context.train.records), self.settings.batch
        at = steps_of(self.look.epochs, images, batch)
        if step != at or at >= steps_of(self.settings.epochs, images, batch):
            return
        self.aps = {size: float(metrics["ap"]) for size, metrics in metrics_of(self.context, self.student, weights).items()}
        if (verdict := self.look.verdict(self.aps)) is not None:
            raise Stopped(verdict, step * batch, self.aps)


def metrics_of(context: Context, spec: DetectorSpec, state: State) -> dict[str, dict[str, Any]]:
    """Evaluate at each resolution of the run, by `size_key`; where memory runs out, once more with half as many images at a time."""

    def evaluated(context: Context) -> dict[str, dict[str, Any]]:
        return {size_key(size): evaluate_detector(context, spec, state, size).to_dict() for size in context.sizes_hw}

    data = context.config.data_settings
    try:
        return evaluated(context)
    except Exception as error:
        if data.eval_batch == 1 or not is_out_of_memory(error):
            raise
    free_memory()
    half = data.model_copy(update={"eval_batch": data.eval_batch // 2})
    return evaluated(replace(context, config=context.config.model_copy(update={"data_settings": half})))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


def in_more_parts(settings: TrainSettings) -> TrainSettings | None:
    """Return settings whose steps are the same and computed in at least twice as many parts; None where parts are single images."""
    parts = next((n for n in range(2 * settings.accumulate, settings.batch + 1) if settings.batch % n == 0), None)
    return None if parts is None else settings.model_copy(update={"accumulate": parts})


def train_candidate(
    context: Context, student: DetectorSpec, state: State, settings: TrainSettings, *, seed: int, teacher: Teacher | None = None,
    momentum: State | None = None, first_epochs: FirstEpochs | None = None, on_step: OnStep | None = None, resume: Resume | None = None,
) -> Trained:  # fmt: skip
    """Train a copy of `state`; where memory runs out, once more from the start in parts of half the size.

    A TrainingError says that no step had a finite loss. `momentum` is left as it is. `Stopped` comes out of `first_epochs`.
    """

    def attempt(train: TrainSettings) -> Trained:
        # Counters of steps are counted on in place; the rest is copied by the optimizer.
        own = None if momentum is None else {name: tensor if tensor.dim() else tensor.clone() for name, tensor in momentum.items()}
        trained, report = train_detector(
            context, student, state, train, seed=seed, teacher=teacher, on_step=on_step, momentum=own, resume=resume, look=first_epochs
        )
        if report.steps and report.skipped == report.steps:
            raise TrainingError(f"the loss was not finite in any of {report.steps} steps; lower the learning rate")
        return Trained(trained, own, report)

    smaller = in_more_parts(settings)
    try:
        return attempt(settings)
    except Exception as error:
        if smaller is None or not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    free_memory()  # after the error is gone, which holds on to what was being computed
    if resume is not None:
        resume.path.unlink(missing_ok=True)
    note = f"trained in {smaller.accumulate} parts a step, because memory ran out: {reason[:120]}"
    return replace(attempt(smaller), note=note)


def free_memory() -> None:
    """Let go of what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
