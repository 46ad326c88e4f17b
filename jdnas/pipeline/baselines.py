"""The methods that a joint search is compared with: NAS, pruning and distillation in a row (Joint-DetNAS, 4.2.2), and random search."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from jdnas.models.weights import State
from jdnas.pipeline.arena import Arena, Found
from jdnas.pipeline.candidate_training import metrics_of, train_candidate
from jdnas.pipeline.norms import with_fresh_statistics
from jdnas.pipeline.pool import teacher_of
from jdnas.pipeline.workshop import StudentWorkshop
from jdnas.search.analyses import operating_points
from jdnas.search.attempt import Bench
from jdnas.search.baselines import search_at_random
from jdnas.search.climb import run
from jdnas.search.history import History
from jdnas.search.points import Point
from jdnas.search.propose import training_seed
from jdnas.search.settings import SearchSettings
from jdnas.search.workshop import Candidate, size_key
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Action, sample_action
from jdnas.student.inherit import decide, transform
from jdnas.training.checkpoint import has_detector, load_detector, save_detector
from jdnas.training.loop import Resume

_BISECTIONS, _MOST_PRUNED = 12, 0.9
_PIPELINE = -2  # the seed's place of a pipeline's training, beside the numbers of candidates
Start = Callable[[], tuple[DetectorSpec, State]]


class UntaughtWorkshop(StudentWorkshop):
    """Trains candidates without a teacher."""

    def teacher(self, candidate: Candidate, student: DetectorSpec) -> None:
        """Return none."""


@dataclass(frozen=True)
class RandomWorkshop(StudentWorkshop):
    """Takes the base some random actions away; which ones follows from the candidate's seed.

    `walked` keeps where the last candidate's walk led until its training begins there.
    """

    walked: dict[int, tuple[DetectorSpec, State]] = field(default_factory=dict)

    def _walk(self, candidate: Candidate) -> tuple[DetectorSpec, State]:
        state, spec, rng = self._parent_state(candidate), candidate.origin, random.Random(candidate.seed)
        for index in range(int((candidate.action or {})["count"])):
            action = sample_action(spec, rng, rng.randrange(self.rules.blend_generations), self.rules)
            if action is None:
                break
            decision = decide(state, spec, action, self.rules, seed=candidate.seed + index)
            state, spec = transform(state, decision, consume=True), decision.target
        return spec, state

    def evolve(self, candidate: Candidate) -> DetectorSpec:
        """Walk, and return where that leads."""
        self.walked.clear()
        self.walked[candidate.number] = self._walk(candidate)
        return self.walked[candidate.number][0]

    def inherited(self, candidate: Candidate) -> tuple[State, State | None]:
        """Return the weights at the end of the walk; an optimizer state is not carried so far."""
        if candidate.choice == "base":
            return super().inherited(candidate)
        spec, state = self.walked.pop(candidate.number) if candidate.number in self.walked else self._walk(candidate)
        return with_fresh_statistics(self.context, spec, state), None


def joint(arena: Arena) -> Found:
    """Search students and teachers together, as `jdnas search` does."""
    return _climbed(arena, StudentWorkshop(arena.context, arena.pool, arena.rules), arena.settings)


def nas(arena: Arena) -> Found:
    """Search layers alone (prune, add, rearrange), without a teacher."""
    rules = replace(arena.rules, early=(1.0, 0.0, 1.0, 1.0), late=(1.0, 0.0, 1.0, 1.0), heads=False)
    settings = arena.settings.model_copy(update={"student_probability": 1.0})
    return _climbed(arena, UntaughtWorkshop(arena.context, arena.pool, rules), settings)


def random_search(arena: Arena) -> Found:
    """Evaluate students some random actions away from the base, each with a random teacher, each from the base's weights."""
    workshop, started = RandomWorkshop(arena.context, arena.pool, arena.rules), time.monotonic()
    with arena.open_study(arena.settings) as study:
        history = search_at_random(
            study, Bench(workshop, arena.cost), arena.pool.space.sample, on_finish=arena.said,
            should_stop=lambda: study.history.images + arena.images_each > arena.images,
        )  # fmt: skip
    return _found(arena, history, time.monotonic() - started)


def joint_polish(arena: Arena) -> Found:
    """Spend half of the images on `joint`, and train its best on with its teacher for the rest, in one schedule (`--polish-epochs`)."""
    started, searched = time.monotonic(), joint(replace(arena, images=arena.images // 2))
    best = arena.best(searched.points).number
    return _taught(arena, lambda: load_detector(searched.stems[best])[:2], searched.teachers[best], searched, started)


def prune_kd(arena: Arena) -> Found:
    """Prune the base to the target cost at once and train the rest with the largest teacher, in one schedule (paper, Table 5)."""
    nothing = Found([], {}, {}, 0, 0, 0.0)
    return _taught(arena, lambda: _pruned_to(arena, arena.context.folder.base), arena.pool.space.largest, nothing, time.monotonic())


def nas_prune_kd(arena: Arena) -> Found:
    """Spend half of the images on `nas`, then prune what it found and distil it as `prune_kd` does."""
    started, searched = time.monotonic(), nas(replace(arena, images=arena.images // 2))
    best = searched.stems[arena.best(searched.points).number]
    return _taught(arena, lambda: _pruned_to(arena, best), arena.pool.space.largest, searched, started)


METHODS: dict[str, Callable[[Arena], Found]] = {
    "joint": joint, "joint-polish": joint_polish, "prune-kd": prune_kd, "nas-prune-kd": nas_prune_kd, "nas": nas, "random": random_search,
}  # fmt: skip
JOINT = ("joint", "joint-polish")
PRUNES = ("prune-kd", "nas-prune-kd")


def _climbed(arena: Arena, workshop: StudentWorkshop, settings: SearchSettings) -> Found:
    started = time.monotonic()
    with arena.open_study(settings) as study:
        result = run(
            study, workshop, arena.cost, on_finish=arena.said,
            should_stop=lambda: study.history.images + arena.images_each > arena.images,
        )  # fmt: skip
    if result.stopped_by == "interrupt":
        raise KeyboardInterrupt
    return _found(arena, result.history, time.monotonic() - started)


def _found(arena: Arena, history: History, seconds: float) -> Found:
    folder = arena.context.folder
    stems = {trial.number: folder.candidate(trial.number) if trial.number else folder.base for trial in history.complete}
    teachers = {trial.number: trial.teacher for trial in history.complete}
    return Found(operating_points(history), stems, teachers, history.images, len(history) - 1, seconds)


def _taught(arena: Arena, start: Start, teacher: DetectorSpec, before: Found, started: float) -> Found:
    """Train what `start` gives with a teacher for the images that `before` has left; return all that was found on the way."""
    context, number = arena.context, 1 + max(before.stems, default=0)
    train = context.config.candidate_train
    steps = max(1, (arena.images - before.images) // train.batch)
    stem = context.folder.root / "pipeline" / "student"
    if not has_detector(stem):
        spec, state = start()
        settings = train.lasting(steps * train.batch / len(context.train.records))
        resume = Resume(stem.with_name("student.partial.safetensors"), context.config.checkpoint_seconds)
        trained = train_candidate(
            context, spec, with_fresh_statistics(context, spec, state), settings, seed=training_seed(context.config.seed, _PIPELINE),
            teacher=teacher_of(context, arena.pool, teacher, spec), resume=resume,
            on_step=context.scalars.watching("pipeline", settings, steps, None),
        )  # fmt: skip
        metrics = metrics_of(context, spec, trained.state)
        save_detector(stem, spec, trained.state, context.described(metrics=metrics, images=trained.report.images))
        resume.path.unlink(missing_ok=True)
    spec, _, meta = load_detector(stem)
    base = context.base_spec
    points = list(before.points) or _points(arena, 0, base, metrics_of(context, base, load_detector(context.folder.base)[1]))
    points += _points(arena, number, spec, meta["metrics"])
    stems, teachers = {0: context.folder.base, **before.stems, number: stem}, {**before.teachers, number: teacher}
    images = before.images + int(meta["images"])
    arena.say(f"    trained in one schedule: AP {max(point.ap for point in points if point.number == number):.3f}   [{images} images]")
    return Found(points, stems, teachers, images, before.candidates + 1, time.monotonic() - started)


def _points(arena: Arena, number: int, spec: DetectorSpec, metrics: dict[str, dict[str, float]]) -> list[Point]:
    return [
        Point(number, size_key(size), arena.cost(spec, size), metrics[size_key(size)]["ap"]) for size in arena.context.sizes_hw
    ]  # fmt: skip


def _pruned_to(arena: Arena, stem: Path) -> tuple[DetectorSpec, State]:
    """Prune as few channels of a detector as reach the target cost, or as many as may go where that is not enough."""
    (spec, state, _), size = load_detector(stem), arena.context.base_size_hw
    if arena.cost(spec, size) <= arena.target_cost:
        return spec, state
    low, high = 0.0, _MOST_PRUNED
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        target = decide(state, spec, Action("prune_channels", ratio=middle), arena.rules).target
        low, high = (low, middle) if arena.cost(target, size) <= arena.target_cost else (middle, high)
    decision = decide(state, spec, Action("prune_channels", ratio=high), arena.rules)
    return decision.target, transform(state, decision)
