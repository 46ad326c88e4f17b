"""The training loop that every stage uses: base, pool, candidates, control.

All randomness of a step is a function of (seed, step), so a training that continues from a checkpoint computes what an
undisturbed one would: weights and optimizer state are all there is to keep.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from jdnas.data.types import Batch
from jdnas.errors import CheckpointError, TrainingError
from jdnas.models.weights import State
from jdnas.training.checkpoint import load_tensors, save_tensors
from jdnas.training.momentum import named_momentum, set_momentum
from jdnas.training.schedule import learning_rate
from jdnas.training.settings import TrainSettings

MAX_SKIPPED_IN_A_ROW = 20
LossTerms = dict[str, Tensor]
LossFunction = Callable[[Batch, int], Iterable[LossTerms]]


@dataclass
class FitReport:
    """What a training did: optimizer steps, images seen, skipped non-finite steps, seconds, and the loss every few steps."""

    steps: int = 0
    images: int = 0
    skipped: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Resume:
    """Where to keep the state of an unfinished training, and how often."""

    path: Path
    seconds: float = 20.0


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


def _snapshot(state: State, optimizer: torch.optim.Optimizer, report: FitReport) -> State:
    tensors = {f"state.{name}": tensor for name, tensor in state.items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in entry.items() if isinstance(value, Tensor)}
    tensors["progress"] = torch.tensor([report.steps, report.images, report.skipped])
    tensors["seconds"] = torch.tensor(report.seconds, dtype=torch.float64)
    tensors["curve"] = torch.tensor(report.curve, dtype=torch.float64).reshape(-1, 2)
    return tensors


def _restore(path: Path, state: State, optimizer: torch.optim.Optimizer) -> FitReport:
    saved = load_tensors(path)
    try:
        for name, tensor in state.items():
            with torch.no_grad():
                tensor.copy_(saved[f"state.{name}"])
        steps, images, skipped = (int(v) for v in saved["progress"])
        curve = [(int(step), float(loss)) for step, loss in saved["curve"]]
        seconds = float(saved["seconds"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} belongs to another training ({error}); delete it to start this step anew") from error
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            entries.setdefault(int(index), {})[key] = tensor
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter_index, values in entries.items():  # fused optimizers go through memory in order, so layouts have to agree
        like = parameters[parameter_index]
        for key, value in values.items():
            if value.shape == like.shape:
                values[key] = torch.empty_like(like, requires_grad=False).copy_(value)
    layout = optimizer.state_dict()
    optimizer.load_state_dict({"state": entries, "param_groups": layout["param_groups"]})
    return FitReport(steps, images, skipped, seconds, curve)


def trainable(state: State) -> list[Tensor]:
    """Return the tensors of a state that are trained: all but running statistics and counters."""
    return [t for name, t in state.items() if t.is_floating_point() and not name.endswith(("running_mean", "running_var"))]


def fit(
    state: State, loss_of: LossFunction, batches: Callable[[int], Iterator[Batch]], settings: TrainSettings, *,
    steps: int, device: torch.device, resume: Resume | None = None, on_step: Callable[[int, float], None] | None = None,
    momentum: State | None = None,
) -> FitReport:  # fmt: skip
    """Train the tensors of `state` in place for `steps` optimizer steps.

    `loss_of(batch, step)` yields named scalar losses, whose sum over all yields is minimized; each yield is backpropagated and
    freed before the next one is computed. `batches(step)` iterates from that step on.
    `momentum` holds an optimizer's state by name (`jdnas.training.momentum`): the training starts from it and leaves its own there.
    A step whose loss or gradient is not finite is skipped and counted; a TrainingError is raised when that does not end.
    """
    parameters = trainable(state)
    for parameter in parameters:
        if parameter.dim() == 4:  # as the images: otherwise every step converts each weight, and each gradient back
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        parameter.requires_grad_(True)
    optimizer = make_optimizer(parameters, settings)
    if momentum:
        set_momentum(optimizer, state, momentum)
    report = FitReport()
    if resume is not None and resume.path.exists():
        report = _restore(resume.path, state, optimizer)
    saved_at, started, in_a_row = time.monotonic(), time.monotonic() - report.seconds, 0
    stream = batches(report.steps) if report.steps < steps else iter(())
    while report.steps < steps:
        batch = next(stream).to(device).channels_last()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(report.steps, steps, settings)
        loss = _step(loss_of, batch, report.steps, optimizer, parameters, settings)
        in_a_row = 0 if loss is not None else in_a_row + 1
        report.skipped += loss is None
        if in_a_row > MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(f"the loss was not finite for {in_a_row} steps in a row at step {report.steps}; lower the learning rate")
        report.steps += 1
        report.images += len(batch.images)
        report.seconds = time.monotonic() - started
        if loss is not None and (report.steps % 10 == 0 or report.steps in (1, steps)):
            report.curve.append((report.steps, loss))
        if on_step is not None:
            on_step(report.steps, loss if loss is not None else float("nan"))
        if resume is not None and time.monotonic() - saved_at > resume.seconds:
            save_tensors(resume.path, _snapshot(state, optimizer, report))
            saved_at = time.monotonic()
    if momentum is not None:
        momentum.clear()
        momentum |= named_momentum(optimizer, state)
    for parameter in parameters:
        parameter.requires_grad_(False).grad = None
    return report


def _step(
    loss_of: LossFunction, batch: Batch, step: int, optimizer: torch.optim.Optimizer, parameters: list[Tensor], settings: TrainSettings
) -> float | None:
    """Do one optimizer step; return its loss, or None when it was skipped because something was not finite."""
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=batch.images.is_cuda):
        for terms in loss_of(batch, step):
            loss = torch.stack([term.float() for term in terms.values()]).sum()
            if not bool(torch.isfinite(loss)):
                return None
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
    if not bool(torch.isfinite(norm)):
        return None
    optimizer.step()
    return total
