"""Train one detector, alone or with a teacher: the base, every candidate, and the control go through here."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from jdnas.data.types import Batch
from jdnas.distill.adapters import FEATURE, fitted_adapter, make_adapters, without_adapters
from jdnas.distill.settings import DistillSettings
from jdnas.distill.step import distill_terms, imitation_terms, warmup_factor
from jdnas.distill.teacher import Teacher
from jdnas.errors import ConfigError
from jdnas.models.bound import BoundDetector, materialize
from jdnas.models.compiled import CompiledDetector
from jdnas.models.detector import LossOutput
from jdnas.models.global_batch import part_of_sum
from jdnas.models.weights import State
from jdnas.pipeline.context import Context
from jdnas.spec import DetectorSpec
from jdnas.student.importance import prunable_gammas
from jdnas.student.penalty import sparsity_penalty
from jdnas.training.evaluate import Metrics, evaluate
from jdnas.training.loop import FitReport, LossTerms, OnStep, Resume, Watch, fit, step_generator
from jdnas.training.schedule import steps_of
from jdnas.training.settings import TrainSettings

Look = Callable[[int, State], None]


class DetectorLoss:
    """Detection losses, the sparsity term lambda * sum |gamma| (section 3.3), and distillation where there is a teacher.

    `steps` is the length of the training, which the warm-up of distillation is a share of; the teacher is there for the first `taught`
    steps (None: all). Frozen norms get no sparsity term. With `compiled`, the losses run as one graph, and `state` is filled with the
    tensors that it reads.
    """

    def __init__(
        self, spec: DetectorSpec, state: State, *, seed: int, gamma_penalty: float, steps: int = 1, taught: int | None = None,
        teacher: Teacher | None = None, distill: DistillSettings | None = None, frozen_norms: bool = False, compiled: bool = False,
    ) -> None:  # fmt: skip
        self.frozen_norms = frozen_norms
        self.compiled = CompiledDetector(spec, state, frozen_norms=frozen_norms) if compiled else None
        self.spec, self.state, self.seed, self.gamma_penalty, self.steps = spec, state, seed, gamma_penalty, steps
        self.teacher, self.distill = teacher, distill or DistillSettings()
        self.taught = math.inf if taught is None else taught
        self.gammas = prunable_gammas(spec)

    def __call__(self, batch: Batch, step: int) -> Iterator[LossTerms]:
        """Yield the terms of one step."""
        yield self._terms(batch, step)  # what they were computed from is not held during backpropagation

    def _terms(self, batch: Batch, step: int) -> LossTerms:
        output = self._losses(batch, step_generator(self.seed, step, batch.images.device))
        terms = dict(output.terms)
        if self.gamma_penalty and not self.frozen_norms:
            terms["sparsity"] = part_of_sum(sparsity_penalty(self.state, self.gammas, self.gamma_penalty))
        if self.teacher is not None and step < self.taught:
            terms |= self._distilled(self.teacher, output, batch, warmup_factor(step, self.steps, self.distill))
        return terms

    def _losses(self, batch: Batch, generator: torch.Generator) -> LossOutput:
        if self.compiled is not None:
            return self.compiled.losses(batch.images, batch.sizes_hw, batch, generator)
        student = BoundDetector(self.spec, without_adapters(self.state), frozen_norms=self.frozen_norms)
        output: LossOutput = student.call("losses", batch.images, batch.sizes_hw, batch, generator)
        return output

    def _distilled(self, teacher: Teacher, output: LossOutput, batch: Batch, factor: float) -> LossTerms:
        lesson = teacher.teach(batch.images, batch.sizes_hw)
        terms = distill_terms(output, lesson, self.state, self.distill)
        terms |= imitation_terms(output, lesson, self.state, self.distill, head=self.spec.head, truth=(batch.boxes_xyxy, batch.valid))
        return {name: factor * term for name, term in terms.items()}


def start_adapters(
    student: DetectorSpec, state: State, teacher: Teacher, settings: DistillSettings, first: Callable[[], Batch], seed: int
) -> State:
    """Return the adapters that a training starts with; `first()` is the batch that a least-squares fit looks at."""
    adapters = make_adapters(student.neck, teacher.spec.neck, settings)
    if settings.adapter == "least_squares" and FEATURE in adapters:
        batch = first()
        generator = step_generator(seed, 0, batch.images.device)
        with torch.no_grad():
            output = BoundDetector(student, state, own_statistics=True).call("losses", batch.images, batch.sizes_hw, batch, generator)
            there = teacher.teach(batch.images, batch.sizes_hw).on_rois(output.proposals.boxes_xyxy)
        adapters[FEATURE] = fitted_adapter(output.roi_features.flatten(0, 1), there.features.float(), output.labels.flatten() >= 0)
    return adapters


def train_detector(
    context: Context, spec: DetectorSpec, state: State, settings: TrainSettings, *, seed: int, teacher: Teacher | None = None,
    distill: DistillSettings | None = None, resume: Resume | None = None, on_step: Callable[[int, float], None] | None = None,
    steps: int | None = None, momentum: State | None = None, look: Look | None = None,
) -> tuple[State, FitReport]:  # fmt: skip
    """Train a copy of `state` and return it with the report; the default length is `settings.epochs` over the training set.

    `distill` are the distillation settings, by default those of the run. `momentum`: the optimizer's state by name, which training
    starts from and leaves there (see `fit`). `look(step, weights)` sees the weights as they are after every step, and may raise.
    """
    if settings.compile and context.team.world > 1:
        raise ConfigError("a compiled step trains on one device; set compile=false, or train without --devices and --nodes")
    images, distill = len(context.train.records), distill or context.config.distill
    steps = steps or steps_of(settings.epochs, images, settings.batch)
    if resume is not None:
        lesson = (teacher.spec.to_dict(), distill.model_dump()) if teacher is not None else ()
        resume = replace(resume, identity=_identity(context, state, settings, (seed, steps, *lesson)))
    tensors = {name: tensor.detach().clone().to(context.device) for name, tensor in state.items()}
    batches = partial(context.train_batches, settings, seed)
    if teacher is not None:
        adapters = start_adapters(spec, tensors, teacher, distill, lambda: next(batches(0)).to(context.device), seed)
        tensors |= {name: context.team.tensor_from_first(adapter.to(context.device)) for name, adapter in adapters.items()}
    parts = steps * settings.accumulate
    loss = DetectorLoss(
        spec, tensors, seed=seed, gamma_penalty=settings.gamma_penalty, steps=parts,
        taught=math.ceil(parts * distill.share_taught(steps * settings.batch / images)), teacher=teacher, distill=distill,
        frozen_norms=settings.norm == "frozen", compiled=settings.compile,
    )  # fmt: skip
    report = fit(
        tensors, loss, batches, settings, steps=steps, device=context.device, resume=resume, on_step=_seen(tensors, on_step, look),
        momentum=momentum, watch=_watch(context, spec, settings), team=context.team,
    )  # fmt: skip
    return {name: tensor.cpu() for name, tensor in without_adapters(tensors).items()}, report


def _identity(context: Context, state: State, settings: TrainSettings, more: tuple[object, ...]) -> str:
    """Return what tells one training from another: its data, settings, the weights that it starts from, and what `more` says.

    Running statistics are left out: renewed on a GPU, they may differ in their last bits from one process to the next.
    """
    digest = hashlib.blake2b(digest_size=16)
    for text in (context.train.fingerprint, settings.model_dump_json(), str(more)):
        digest.update(text.encode())
    for name in sorted(state):
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            digest.update(state[name].detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _seen(tensors: State, on_step: OnStep | None, look: Look | None) -> OnStep | None:
    if look is None:
        return on_step

    def seen(step: int, loss: float) -> None:
        if on_step is not None:
            on_step(step, loss)
        look(step, without_adapters(tensors))

    return seen


def _watch(context: Context, spec: DetectorSpec, settings: TrainSettings) -> Watch | None:
    if not settings.patience:
        return None
    every = steps_of(settings.eval_epochs, len(context.train.records), settings.batch)
    return Watch(lambda state: evaluate_detector(context, spec, without_adapters(state), context.base_size_hw).ap, every, settings.patience)


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
