"""A run with a base and a pool that nobody trained: enough for candidates of the real workshop in a second."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from jdnas.config import parse_overrides, resolve
from jdnas.models.weights import State, grow
from jdnas.pipeline.base import scratch_state
from jdnas.pipeline.context import Context, load_context
from jdnas.pipeline.detector_training import evaluate_detector
from jdnas.pipeline.run_folder import RunFolder, begin_run
from jdnas.pipeline.workshop import StudentWorkshop
from jdnas.search.propose import first_candidate
from jdnas.search.settings import SearchSettings
from jdnas.search.workshop import Candidate, SearchTask
from jdnas.student.actions import Action
from jdnas.teacher.pool import TeacherPool
from jdnas.teacher.space import make_space
from jdnas.training.checkpoint import save_detector

NANO = Path(__file__).with_name("nano.yaml")


@dataclass(frozen=True)
class Tiny:
    context: Context
    pool: TeacherPool
    state: State

    @property
    def task(self) -> SearchTask:
        context = self.context
        return SearchTask(context.base_spec, self.pool.space.largest, context.sizes_hw, context.base_size_hw)

    @property
    def workshop(self) -> StudentWorkshop:
        return StudentWorkshop(self.context, self.pool, self.context.config.action_rules(self.context.base_spec))

    def base(self) -> Candidate:
        return first_candidate(self.task, SearchSettings())

    def pruned(self, number: int = 1, parent: int = 0) -> Candidate:
        action = Action("prune_channels", ratio=0.3).to_dict()
        return replace(self.base(), number=number, parent=parent, choice="student", action=action, seed=7)

    def taught(self, number: int = 1, parent: int = 0) -> Candidate:
        return replace(self.base(), number=number, parent=parent, choice="teacher", seed=7)


def make_tiny(folder: Path, *overrides: str) -> Tiny:
    config = resolve(str(NANO), parse_overrides(["data=shapes", *overrides]))
    run = RunFolder(folder)
    context = load_context(config, run)
    begin_run(run, config)
    state = scratch_state(context)
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in state if name.endswith("norm.weight")]:  # as training would: all alike, they rank no channels
        state[name] = state[name] * (1 + 0.1 * torch.randn(state[name].shape, generator=generator))
    metrics = evaluate_detector(context, context.base_spec, state, context.base_size_hw).to_dict()
    save_detector(run.base, context.base_spec, state, {"curve": [], "metrics": metrics})
    space = make_space(context.base_spec, config.pool)
    grown = grow(state, context.base_spec, space.largest, seed=0)
    pool = TeacherPool(space, grown, context.train.classes, run.pool.parent / "statistics")
    pool.save(run.pool, {"phases": [], "largest_metrics": metrics})
    return Tiny(context, pool, state)
