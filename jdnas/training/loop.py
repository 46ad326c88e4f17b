"""The training loop that every stage uses: base, pool, candidates, control.

All randomness of a step is a function of (seed, step), so a training that continues from a checkpoint computes what an
undisturbed one would: what `jdnas.training.resume.Training` holds is all there is to keep.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from jdnas.data.prefetch import on_device
from jdnas.data.types import Batch
from jdnas.errors import TrainingError
from jdnas.models.global_batch import as_part_of
from jdnas.models.weights import State
from jdnas.training.average import Average
from jdnas.training.distributed import ALONE, Team
from jdnas.training.heap import keep_freed_memory
from jdnas.training.momentum import named_momentum, set_momentum
from jdnas.training.resume import FitReport, Resume, Training
from jdnas.training.schedule import learning_rate
from jdnas.training.settings import TrainSettings

__all__ = [
    "FitReport",
    "LossTerms",
    "OnStep",
    "Resume",
    "Watch",
    "fit",
    "make_optimizer",
    "prepare",
    "step_generator",
    "train_step",
    "trainable",
]

MAX_SKIPPED_IN_A_ROW = 20
LossTerms = dict[str, Tensor]
OnStep = Callable[[int, float], None]
LossFunction = Callable[[Batch, int], Iterable[LossTerms]]


@dataclass(frozen=True)
class Watch:
    """Early stopping: `score` rates a state every `every` steps; after `patience` ratings without a better one, training ends."""

    score: Callable[[State], float]
    every: int
    patience: int


def make_optimizer(parameters: list[Tensor], settings: TrainSettings) -> torch.optim.Optimizer:
    """Make the optimizer of `settings`; parameters of one dimension (norms, biases) get no weight decay.

    The fused implementations go through each parameter once, which counts for small nets.
    """
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, fused=True)


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the random generator of one training step."""
    return torch.Generator(device=device).manual_seed((seed * 1_000_003 + step) % 2**63)


def trainable(state: State, *, norms: bool = True) -> list[Tensor]:
    """Return the tensors of a state that are trained: all but running statistics and counters, and the norms' unless `norms` is set."""
    frozen = {name.removesuffix(".running_mean") for name in state if name.endswith(".running_mean")} if not norms else set()
    return [
        tensor
        for name, tensor in state.items()
        if tensor.is_floating_point() and not name.endswith(("running_mean", "running_var")) and name.rpartition(".")[0] not in frozen
    ]


def prepare(state: State, *, norms: bool = True) -> list[Tensor]:
    """Make the trained tensors of a state ready for training, in place, and return them."""
    parameters = trainable(state, norms=norms)
    for parameter in parameters:
        if parameter.dim() == 4:  # as the images: otherwise every step converts each weight, and each gradient back
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        parameter.requires_grad_(True)
    return parameters


def fit(
    state: State, loss_of: LossFunction, batches: Callable[[int], Iterator[Batch]], settings: TrainSettings, *,
    steps: int, device: torch.device, resume: Resume | None = None, on_step: OnStep | None = None,
    momentum: State | None = None, watch: Watch | None = None, team: Team = ALONE,
) -> FitReport:  # fmt: skip
    """Train the tensors of `state` in place for `steps` optimizer steps; it ends as their average or best where that is asked for.

    A step takes `settings.accumulate` parts. `batches(part)` iterates parts from that number on; `loss_of(batch, part)` yields named
    scalar losses, whose sum over all yields is minimized; each yield is backpropagated and freed before the next one is computed.
    `momentum` holds an optimizer's state by name (`jdnas.training.momentum`): the training starts from it and leaves its own there.
    A step whose loss or gradient is not finite is skipped and counted; a TrainingError is raised when that does not end.
    """
    if device.type == "cpu":
        keep_freed_memory()
    parameters = prepare(state, norms=settings.norm != "frozen")
    training = _start(state, parameters, settings, resume, momentum, team)
    report = training.report
    saved_at, started, in_a_row = time.monotonic(), time.monotonic() - report.seconds, 0
    going = report.steps < steps and not report.stopped_early
    stream = on_device(batches(report.steps * settings.accumulate), device) if going else iter(())
    while report.steps < steps and not report.stopped_early:
        loss = _step(training, loss_of, islice(stream, settings.accumulate), parameters, settings, steps, team)
        report.seconds = time.monotonic() - started
        in_a_row = 0 if loss is not None else in_a_row + 1
        if in_a_row > MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(f"the loss was not finite for {in_a_row} steps in a row at step {report.steps}; lower the learning rate")
        if watch is not None and (report.steps % watch.every == 0 or report.steps == steps):
            _rate(training, watch, team)
        if on_step is not None:
            on_step(report.steps, loss if loss is not None else float("nan"))
        if resume is not None and team.rank == 0 and time.monotonic() - saved_at > resume.seconds:
            training.save(resume)
            saved_at = time.monotonic()
    if momentum is not None:
        momentum.clear()
        momentum |= named_momentum(training.optimizer, state)
    return _finish(training, parameters)


def _start(
    state: State, parameters: list[Tensor], settings: TrainSettings, resume: Resume | None, momentum: State | None, team: Team
) -> Training:  # fmt: skip
    """Return where a training begins: fresh, with an optimizer's state that it was given, or where it was interrupted."""
    average = Average(state, settings.ema) if settings.ema else None
    training = Training(state, make_optimizer(parameters, settings), average, {}, FitReport())
    if momentum:
        set_momentum(training.optimizer, state, momentum)
    if resume is not None and resume.path.exists():
        training.load(resume)
    team.wait()  # nobody writes before all have read
    return training


def _step(
    training: Training, loss_of: LossFunction, parts: Iterator[Batch], parameters: list[Tensor], settings: TrainSettings, steps: int,
    team: Team,
) -> float | None:  # fmt: skip
    """Do the next of `steps` optimizer steps and write it into the report; return its loss, None where it was skipped."""
    report, seen = training.report, [0]
    for group in training.optimizer.param_groups:
        group["lr"] = learning_rate(report.steps, steps, settings)
    step_parts = _counted(parts, seen)
    loss = train_step(loss_of, step_parts, report.steps, training.optimizer, parameters, settings, team)
    deque(step_parts, maxlen=0)  # a step that was skipped leaves parts, which are no other step's
    report.steps += 1
    report.images += seen[0] * team.world
    if loss is None:
        report.skipped += 1
        return None
    if training.average is not None:
        training.average.update(training.state, report.steps)
    if report.steps % 10 == 0 or report.steps in (1, steps):
        report.curve.append((report.steps, loss))
    return loss


def _counted(parts: Iterator[Batch], seen: list[int]) -> Iterator[Batch]:
    for part in parts:
        seen[0] += len(part.images)
        yield part.channels_last()


def train_step(
    loss_of: LossFunction, parts: Iterable[Batch], step: int, optimizer: torch.optim.Optimizer, parameters: list[Tensor],
    settings: TrainSettings, team: Team = ALONE,
) -> float | None:  # fmt: skip
    """Do one optimizer step; return its loss, or None when it was skipped because something was not finite.

    The loss of a step is the mean over its `settings.accumulate` parts.
    """
    optimizer.zero_grad(set_to_none=True)
    device, total = parameters[0].device, torch.zeros((), device=parameters[0].device)
    with as_part_of(team.share(synchronized_norms=settings.norm == "sync")):
        for number, batch in enumerate(parts):
            batch = batch.with_rows(team.largest(batch.valid.shape[1], device))
            with torch.autocast(device.type, torch.bfloat16, enabled=_in_bf16(settings, device)):
                for terms in loss_of(batch, step * settings.accumulate + number):
                    loss = torch.stack([term.float() for term in terms.values()]).sum() / settings.accumulate
                    if team.world == 1 and not bool(torch.isfinite(loss)):
                        return None  # several processes go on together, and skip together below
                    loss.backward()  # type: ignore[no-untyped-call]
                    total += loss.detach()
    team.add_up_gradients(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
    total = team.add_up(total)
    if not bool(torch.isfinite(norm + total)):
        return None
    optimizer.step()
    return float(total)


def _in_bf16(settings: TrainSettings, device: torch.device) -> bool:
    if settings.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return settings.precision == "bf16"


def _rate(training: Training, watch: Watch, team: Team) -> None:
    report = training.report
    weights = training.state if training.average is None else training.average.of(training.state)
    score = team.from_first(watch.score(weights) if team.rank == 0 else 0.0)
    best = max((known for _, known in report.scores), default=float("-inf"))
    report.scores.append((report.steps, score))
    if score > best:
        training.best = {name: tensor.detach().clone() for name, tensor in weights.items()}
    best_at = max(range(len(report.scores)), key=lambda index: (report.scores[index][1], -index))
    report.stopped_early = len(report.scores) - 1 - best_at >= watch.patience


@torch.no_grad()
def _finish(training: Training, parameters: list[Tensor]) -> FitReport:
    """Leave the weights that were asked for in the state: the best, the average, or the last."""
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None
    wanted = training.best or (training.average.tensors if training.average is not None else {})
    for name, tensor in wanted.items():
        training.state[name].copy_(tensor)
    return training.report
