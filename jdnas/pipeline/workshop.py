"""Makes the search's candidates real: inherits weights, trains with the teacher, evaluates at every resolution."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdnas.distill.teacher import Teacher
from jdnas.models.weights import State
from jdnas.pipeline.candidate_training import FirstEpochs, Stopped, metrics_of, train_candidate
from jdnas.pipeline.context import Context
from jdnas.pipeline.norms import with_fresh_statistics
from jdnas.pipeline.pool import teacher_of
from jdnas.pipeline.storage import RunStorage
from jdnas.search.workshop import Candidate, EarlyLook, Outcome
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

    def evaluate(self, candidate: Candidate, student: DetectorSpec, look: EarlyLook | None = None) -> Outcome:
        """Train the candidate with its teacher and evaluate it at every resolution; the base is only evaluated.

        An `EarlyLook` may end its training after the first epochs.
        """
        context, (state, momentum) = self.context, self.inherited(candidate)
        if candidate.choice == "base":
            return Outcome(metrics_of(context, student, state), 0)
        settings = context.config.candidate_train
        steps = steps_of(settings.epochs, len(context.train.records), settings.batch)
        on_step = context.scalars.watching(f"candidate_{candidate.number:04d}", settings, steps, self.on_step)
        first = None if look is None else FirstEpochs(context, student, look, settings)
        try:
            trained = train_candidate(
                context, student, state, settings, seed=candidate.seed, teacher=self.teacher(candidate, student), momentum=momentum,
                first_epochs=first, on_step=on_step,
            )  # fmt: skip
        except Stopped as end:
            return Outcome({}, end.images, early_aps=end.aps, stopped=end.verdict)
        metrics, images = metrics_of(context, student, trained.state), trained.report.images
        stem = context.folder.candidate(candidate.number)
        save_momentum(stem, student, trained.momentum)
        save_detector(stem, student, trained.state, context.described(number=candidate.number, metrics=metrics, images=images))
        if self.storage is not None:
            self.storage.put_detector(context.folder.root, stem)
        files = {"student": str(stem.relative_to(context.folder.root))}
        return Outcome(metrics, images, files, early_aps=None if first is None else first.aps, note=trained.note)

    def inherited(self, candidate: Candidate) -> tuple[State, State | None]:
        """Return the weights that a candidate's training starts from, and the optimizer state where one is inherited."""
        state = self._parent_state(candidate)
        decision = self._decision(candidate, state)
        momentum = self._momentum(candidate, decision)
        if decision is None:
            return state, momentum
        return with_fresh_statistics(self.context, decision.target, transform(state, decision, consume=True)), momentum

    def teacher(self, candidate: Candidate, student: DetectorSpec) -> Teacher | None:
        """Return the teacher of a candidate's training."""
        return teacher_of(self.context, self.pool, candidate.teacher, student)
