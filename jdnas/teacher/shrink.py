"""Integrated progressive shrinking (Joint-DetNAS, section 3.1.3): depths and widths shrink together, phase by phase.

Phase 1 trains the largest net. Each later phase releases more of the subnet space; a step trains the largest net, the
smallest released one and some random ones (the sandwich rule), and the largest net distils the others.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from jdnas.data.types import Batch
from jdnas.distill.adapters import FEATURE, identity_adapter
from jdnas.distill.settings import DistillSettings
from jdnas.distill.step import distill_terms, warmup_factor
from jdnas.distill.teacher import Lesson, roi_outputs
from jdnas.models.bound import BoundDetector
from jdnas.models.weights import State, axes_of, permute, widths_of
from jdnas.spec import DetectorSpec
from jdnas.teacher.names import describe_subnet
from jdnas.teacher.settings import PhaseSettings, PoolSettings
from jdnas.teacher.space import SubnetSpace
from jdnas.training.checkpoint import load_tensors, read_json, save_tensors, write_json
from jdnas.training.distributed import ALONE, Team
from jdnas.training.loop import LossTerms, OnStep, Resume, fit, step_generator
from jdnas.training.schedule import steps_of

VISITS = "visits"
EXTRA = (FEATURE, VISITS)  # what a state holds beside the detector while it is trained
BatchSource = Callable[[int, int], Iterator[Batch]]


@dataclass
class PhaseReport:
    """One phase: images, seconds, skipped steps, loss curve, and how often each subnet (see `jdnas.teacher.names`) was trained."""

    phase: int
    images: int
    seconds: float
    skipped: int
    curve: list[tuple[int, float]]
    visited: dict[str, int]


def channel_orders(state: State, spec: DetectorSpec) -> dict[str, Tensor]:
    """Order the channels of every elastic axis by the L1 norm of the weights that read them, largest first (after OFA)."""
    widths = widths_of(spec)
    norms = {name: torch.zeros(width, dtype=torch.float64) for name, width in widths.items() if name.startswith(("neck", "s"))}
    for name, axes in axes_of(spec).items():
        for dim, axis in enumerate(axes[1:], start=1):
            if axis is not None and axis.name in norms:
                magnitude = state[name].detach().double().abs().transpose(0, dim).flatten(1).sum(1).cpu()
                norms[axis.name] += magnitude.view(axis.width, axis.repeat).sum(1)
    norms.pop("stem", None)
    return {name: norm.argsort(descending=True, stable=True) for name, norm in norms.items()}


def sandwich(space: SubnetSpace, settings: PhaseSettings, rng: random.Random) -> list[DetectorSpec]:
    """Return the subnets that a step trains besides the largest net: the smallest released one and random ones."""
    released = space.released(settings.depth_share, settings.widths)
    if released.size() == 1:
        return []
    drawn = [released.smallest, *(released.sample(rng) for _ in range(settings.subnets))]
    return [spec for spec in dict.fromkeys(drawn) if spec != space.largest]


def visit_record(steps: int, phase: PhaseSettings) -> Tensor:
    """Return an empty record of the subnets that each step trains: their numbers in the space `[steps, 2 + subnets]`, -1 for none.

    It is kept in the trained state, so a checkpoint holds what was visited up to its step, and a resumed phase goes on from there.
    """
    return torch.full((steps, 2 + phase.subnets), -1, dtype=torch.int64)


def visit_counts(record: Tensor, space: SubnetSpace) -> dict[str, int]:
    """Return how often each subnet stands in a record, by name, most often first."""
    counts = Counter(record[record >= 0].tolist())
    return {describe_subnet(space, space.spec_of(space.choice_of_number(number))): count for number, count in counts.most_common()}


class PhaseLoss:
    """The losses of one step of a phase, one yield per trained net; what is trained is written to `state[VISITS]`."""

    def __init__(self, space: SubnetSpace, state: State, phase: PhaseSettings, distill: DistillSettings, seed: int) -> None:
        self.space, self.state, self.phase, self.distill, self.seed = space, state, phase, distill, seed
        self.detector_state = {name: tensor for name, tensor in state.items() if name not in EXTRA}

    def __call__(self, batch: Batch, step: int) -> Iterator[LossTerms]:
        """Yield the detection losses of the largest net, then detection and distillation losses of each subnet."""
        largest = BoundDetector(self.space.largest, self.detector_state)
        targets = (batch.images, batch.sizes_hw, batch)
        output = largest.call("losses", *targets, step_generator(self.seed, step, batch.images.device))
        pyramid = [level.detach() for level in output.pyramid]
        self._visit(step, 0, self.space.largest)
        yield output.terms
        lesson = Lesson(
            pyramid, self.space.largest.head.strides, torch.no_grad()(partial(roi_outputs, partial(largest.call, training=False), pyramid))
        )
        factor = warmup_factor(step, len(self.state[VISITS]), self.distill)
        for place, spec in enumerate(sandwich(self.space, self.phase, random.Random(f"{self.seed}/{step}")), start=1):
            subnet = BoundDetector(spec, self.detector_state, own_statistics=True)
            output = subnet.call("losses", *targets, step_generator(self.seed, step, batch.images.device))
            self._visit(step, place, spec)
            terms = distill_terms(output, lesson, {FEATURE: self.state[FEATURE][:, : spec.neck]}, self.distill)
            yield output.terms | {name: factor * term for name, term in terms.items()}

    def _visit(self, step: int, place: int, spec: DetectorSpec) -> None:
        self.state[VISITS][step, place] = self.space.number_of(spec)


def sorted_by_l1(state: State, spec: DetectorSpec) -> State:
    """Return the state of the largest net and its adapter with the channels of every elastic axis sorted, function unchanged."""
    orders = channel_orders({name: tensor for name, tensor in state.items() if name != FEATURE}, spec)
    result = permute({name: tensor for name, tensor in state.items() if name != FEATURE}, spec, orders)
    order = orders["neck"].to(state[FEATURE].device)
    return result | {FEATURE: state[FEATURE][order][:, order].clone()}


def train_pool(
    state: State, space: SubnetSpace, settings: PoolSettings, distill: DistillSettings, *, images: int, batches: BatchSource,
    device: torch.device, seed: int, folder: Path, checkpoint_seconds: float = 20.0, on_step: OnStep | None = None,
    team: Team = ALONE,
) -> tuple[State, list[PhaseReport]]:  # fmt: skip
    """Train the pool state through all phases and return it; `batches(seed, step)` iterates training batches.

    The state after each phase is kept in `folder` (`phase_0.safetensors`, ...), and that of an unfinished one; a later call goes on
    from there. The processes of a `team` draw the same subnets for their parts of a batch, and the first one writes.
    """
    neck = space.largest.neck
    state = {name: tensor.to(device) for name, tensor in state.items()} | {FEATURE: identity_adapter(neck, neck).to(device)}
    reports, before = [], 0
    for index, phase in enumerate(settings.phases):
        finished, seed_of = phase_path(folder, index), seed * 1000 + index
        train = phase.train(settings.train)
        steps = steps_of(phase.epochs, images, train.batch)
        first, before = before, before + steps
        if finished.with_suffix(".json").exists():
            state = {name: tensor.to(device) for name, tensor in load_tensors(finished).items() if name != VISITS}
            reports.append(PhaseReport(**read_json(finished.with_suffix(".json"))))
            continue
        if len(phase.widths) > 1:
            state = sorted_by_l1(state, space.largest)
        state[VISITS] = visit_record(steps * train.accumulate, phase)
        loss = PhaseLoss(space, state, phase, distill, seed_of)
        resume = Resume(folder / f"phase_{index}.partial.safetensors", checkpoint_seconds)
        report = fit(state, loss, partial(batches, seed_of), train, steps=steps, device=device, resume=resume,
                     on_step=_counted_from(first, on_step), team=team)  # fmt: skip
        visited = visit_counts(state[VISITS], space)
        reports.append(PhaseReport(index, report.images, report.seconds, report.skipped, report.curve, visited))
        if team.rank == 0:
            save_tensors(finished, state)
            write_json(finished.with_suffix(".json"), asdict(reports[-1]))
            resume.path.unlink(missing_ok=True)
        team.wait()
        state.pop(VISITS)
    state.pop(FEATURE)
    return {name: tensor.cpu() for name, tensor in state.items()}, reports


def _counted_from(first: int, on_step: OnStep | None) -> OnStep | None:
    return None if on_step is None else lambda step, loss: on_step(first + step, loss)


def phase_path(folder: Path, index: int) -> Path:
    """Return where the state after a phase is kept (with its report as JSON beside it)."""
    return folder / f"phase_{index}.safetensors"


def load_phase(folder: Path, index: int) -> State:
    """Read the pool's state as it was after a phase; a CheckpointError says what is wrong with the file."""
    return {name: tensor for name, tensor in load_tensors(phase_path(folder, index)).items() if name not in EXTRA}
