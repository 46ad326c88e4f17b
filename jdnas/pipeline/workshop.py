"""Makes the search's candidates real: inherits weights, trains with the teacher, evaluates at every resolution."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdnas.models.weights import State
from jdnas.pipeline.context import Context
from jdnas.pipeline.detector_training import evaluate_detector, train_detector
from jdnas.pipeline.norms import with_fresh_statistics
from jdnas.pipeline.pool import teacher_of
from jdnas.pipeline.storage import RunStorage
from jdnas.search.workshop import Candidate, Outcome, size_key
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Action, ActionRules, sample_action
from jdnas.student.inherit import Decision, carry_momentum, decide, transform
from jdnas.teacher.pool import TeacherPool
from jdnas.training.checkpoint import load_detector, save_detector
from jdnas.training.momentum import load_momentum, save_momentum
from jdnas.training.schedule import steps_of


@dataclass(frozen=True)
class StudentWorkshop:
    """The workshop of a run (see `jdnas.search.workshop.Workshop`); everything in it is repeatable from the candidate.

    With a `storage`, parents that are not in the run folder are fetched from it, and what was trained goes there too.
    """

    context: Context
    pool: TeacherPool
    rules: ActionRules
    on_step: Callable[[int, float], None] | None = None
    storage: RunStorage | None = None

    def sample_action(self, spec: DetectorSpec, rng: random.Random, generation: int) -> dict[str, Any] | None:
        """Draw a legal action with the paper's preferences."""
        action = sample_action(spec, rng, generation, self.rules)
        return None if action is None else action.to_dict()

    def mutate_teacher(self, teacher: DetectorSpec, rng: random.Random) -> DetectorSpec | None:
        """Change one depth or width of the teacher within the pool's space."""
        return self.pool.space.mutate(teacher, rng)

    def _parent_stem(self, candidate: Candidate) -> Path:
        folder = self.context.folder
        stem = folder.candidate(candidate.parent) if candidate.parent else folder.base
        if self.storage is not None:
            self.storage.fetch_detector(folder.root, stem)
        return stem

    def _parent_state(self, candidate: Candidate) -> State:
        return load_detector(self._parent_stem(candidate))[1]

    def _momentum(self, candidate: Candidate, decision: Decision | None) -> State | None:
        """Return the parent's optimizer state as the candidate inherits it: empty where there is none, None where none is kept."""
        if not self.context.config.student.inherit_optimizer:
            return None
        momentum = load_momentum(self._parent_stem(candidate))
        return momentum if decision is None else carry_momentum(momentum, decision)

    def _decision(self, candidate: Candidate, state: State) -> Decision | None:
        if candidate.action is None:
            return None
        return decide(state, candidate.origin, Action.from_dict(candidate.action, self.rules.extra), self.rules, seed=candidate.seed)

    def evolve(self, candidate: Candidate) -> DetectorSpec:
        """Decide what the candidate's action does to its parent and return the resulting spec."""
        decision = self._decision(candidate, self._parent_state(candidate))
        return candidate.origin if decision is None else decision.target

    def evaluate(self, candidate: Candidate, student: DetectorSpec) -> Outcome:
        """Train the candidate with its teacher and evaluate it at every resolution; the base is only evaluated."""
        context = self.context
        state, images = self._parent_state(candidate), 0
        decision = self._decision(candidate, state)
        momentum = self._momentum(candidate, decision)
        if decision is not None:
            state = with_fresh_statistics(context, student, transform(state, decision, consume=True))
        if candidate.choice != "base":
            settings = context.config.candidate_train
            teacher = teacher_of(context, self.pool, candidate.teacher, student)
            steps = steps_of(settings.epochs, len(context.train.records), settings.batch)
            on_step = context.scalars.watching(f"candidate_{candidate.number:04d}", settings, steps, self.on_step)
            state, report = train_detector(
                context, student, state, settings, seed=candidate.seed, teacher=teacher, on_step=on_step, momentum=momentum
            )  # fmt: skip
            images = report.images
        metrics = {size_key(size): evaluate_detector(context, student, state, size).to_dict() for size in context.sizes_hw}
        stem = context.folder.candidate(candidate.number)
        if candidate.choice != "base":
            save_momentum(stem, student, momentum)
            save_detector(stem, student, state, {"number": candidate.number, "metrics": metrics, "images": images})
            if self.storage is not None:
                self.storage.put_detector(context.folder.root, stem)
        return Outcome(metrics, images, {"student": str(stem.relative_to(context.folder.root))} if candidate.choice != "base" else {})
