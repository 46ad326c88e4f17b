"""Train one detector, alone or with a teacher: the base, every candidate, and the control go through here."""

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from jdnas.data.types import Batch
from jdnas.distill.losses import identity_adapter
from jdnas.distill.settings import DistillSettings
from jdnas.distill.step import distill_terms, roi_outputs
from jdnas.models.bound import BoundDetector, materialize
from jdnas.models.detector import Detector
from jdnas.models.weights import State
from jdnas.pipeline.context import Context
from jdnas.spec import DetectorSpec
from jdnas.student.importance import prunable_gammas
from jdnas.student.penalty import sparsity_penalty
from jdnas.training.evaluate import Metrics, evaluate
from jdnas.training.loop import FitReport, LossTerms, Resume, fit, step_generator
from jdnas.training.schedule import steps_of
from jdnas.training.settings import TrainSettings

ADAPTER = "adapter.weight"


class DetectorLoss:
    """Detection losses, the sparsity term lambda * sum |gamma| (section 3.3), and distillation where there is a teacher."""

    def __init__(
        self, spec: DetectorSpec, state: State, *, seed: int, gamma_penalty: float, teacher: Detector | None = None,
        distill: DistillSettings | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.state, self.seed, self.gamma_penalty = spec, state, seed, gamma_penalty
        self.teacher, self.distill = teacher, distill or DistillSettings()
        self.gammas = prunable_gammas(spec)

    def __call__(self, batch: Batch, step: int) -> Iterator[LossTerms]:
        """Yield the terms of one step."""
        weights = {name: tensor for name, tensor in self.state.items() if name != ADAPTER}
        student = BoundDetector(self.spec, weights)
        generator = step_generator(self.seed, step, batch.images.device)
        output = student.call("losses", batch.images, batch.sizes_hw, batch, generator)
        terms = dict(output.terms)
        if self.gamma_penalty:
            terms["sparsity"] = sparsity_penalty(self.state, self.gammas, self.gamma_penalty)
        if self.teacher is not None:
            terms |= distill_terms(output, partial(self._teacher_on, batch.images), self.state[ADAPTER], self.distill)
        yield terms

    def _teacher_on(self, images: Tensor, boxes_xyxy: Tensor):  # type: ignore[no-untyped-def]
        teacher = self.teacher
        return roi_outputs(lambda method, *args: getattr(teacher, method)(*args), teacher.features(images), boxes_xyxy)  # type: ignore[union-attr]


def train_detector(
    context: Context, spec: DetectorSpec, state: State, settings: TrainSettings, *, seed: int, teacher: Detector | None = None,
    resume: Resume | None = None, on_step: Callable[[int, float], None] | None = None, steps: int | None = None,
) -> tuple[State, FitReport]:  # fmt: skip
    """Train a copy of `state` and return it with the report; the default length is `settings.epochs` over the training set."""
    tensors = {name: tensor.detach().clone().to(context.device) for name, tensor in state.items()}
    if teacher is not None:
        tensors[ADAPTER] = identity_adapter(spec.neck, teacher.spec.neck).to(context.device)
    loss = DetectorLoss(
        spec, tensors, seed=seed, gamma_penalty=settings.gamma_penalty, teacher=teacher, distill=context.config.distill
    )  # fmt: skip
    steps = steps or steps_of(settings.epochs, len(context.train.records), settings.batch)
    batches = partial(context.train_batches, settings.batch, seed)
    report = fit(tensors, loss, batches, settings, steps=steps, device=context.device, resume=resume, on_step=on_step)
    tensors.pop(ADAPTER, None)
    return {name: tensor.cpu() for name, tensor in tensors.items()}, report


def evaluate_detector(
    context: Context, spec: DetectorSpec, state: State, size_hw: tuple[int, int], on_batch: Callable[[int], None] | None = None
) -> Metrics:
    """Evaluate a state on the validation images at one resolution."""
    traits, settings = spec.traits, context.config.data_settings
    detector = materialize(spec, state, context.device)
    return evaluate(
        detector, context.val, size_hw=size_hw, batch=settings.eval_batch, mean=traits.mean, std=traits.std, on_batch=on_batch,
        device=context.device, workers=settings.workers,
    )  # fmt: skip
