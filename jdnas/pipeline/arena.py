"""What the methods that are compared work with, and what they find."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jdnas.pipeline.context import Context
from jdnas.pipeline.run_folder import RunFolder
from jdnas.pipeline.search import search_objective
from jdnas.pipeline.speed import student_rules
from jdnas.search.history import History, Trial
from jdnas.search.objective import Objective, score_name
from jdnas.search.points import Point
from jdnas.search.settings import SearchSettings
from jdnas.search.study import SearchStudy
from jdnas.search.workshop import Cost, SearchTask, size_hw_from_key
from jdnas.spec import DetectorSpec
from jdnas.student.actions import ActionRules
from jdnas.teacher.pool import TeacherPool
from jdnas.training.schedule import steps_of

_NO_END = 10**9  # images end these searches, nothing else does


@dataclass(frozen=True, slots=True)
class BranchFolder(RunFolder):
    """A folder with candidates and a study of its own, and the base and pool of the run that it belongs to."""

    run: RunFolder

    @property
    def base(self) -> Path:
        """Stem of the run's base."""
        return self.run.base

    @property
    def pool(self) -> Path:
        """Stem of the run's pool."""
        return self.run.pool


@dataclass(frozen=True)
class Arena:
    """What a method works with: a run's base and pool, its own folder and seed, and the training images that it may use.

    `target_cost` is what pipelines prune to, at the base's resolution.
    """

    context: Context
    pool: TeacherPool
    cost: Cost
    images: int
    target_cost: float
    say: Callable[[str], None]

    @property
    def settings(self) -> SearchSettings:
        """The run's rules of the search, with this seed and no other end than the images."""
        ends = {"seed": self.context.config.seed, "trials": _NO_END, "patience": _NO_END, "max_seconds": None}
        return self.context.config.search.model_copy(update=ends)

    @property
    def rules(self) -> ActionRules:
        """The rules of the student's actions."""
        return student_rules(self.context.config, self.context.base_spec)

    @property
    def objective(self) -> Objective:
        """What the run searches for."""
        return search_objective(self.context, self.cost)

    def best(self, points: Sequence[Point]) -> Point:
        """Return the point with the best score, the earliest one of equals."""
        score = self.objective.score
        return max(points, key=lambda point: (score(point.ap, point.cost, size_hw_from_key(point.size)), -point.number))

    @property
    def images_each(self) -> int:
        """Training images of one candidate."""
        train = self.context.config.candidate_train
        return steps_of(train.epochs, len(self.context.train.records), train.batch) * train.batch

    def open_study(self, settings: SearchSettings) -> SearchStudy:
        """Open this folder's study."""
        context = self.context
        task = SearchTask(context.base_spec, self.pool.space.largest, context.sizes_hw, context.base_size_hw)
        context.folder.root.mkdir(parents=True, exist_ok=True)
        return SearchStudy.open(context.folder.study_url, task, settings)

    def said(self, trial: Trial, history: History) -> None:
        """Say what became of a candidate."""
        score = score_name(self.settings)
        figures = f"AP {trial.ap:.3f}, {score} {trial.score:.4f}" if trial.state == "complete" else f"{trial.state}: {trial.reason}"
        self.say(
            f"    {trial.number:3d} {trial.candidate.change:15s} {figures}   [{history.images} images, best {history.best().score:.4f}]"
        )


@dataclass(frozen=True)
class Found:
    """What a method found: operating points on the images that choices are made by, and the weights and teacher behind each number."""

    points: list[Point]
    stems: dict[int, Path]
    teachers: dict[int, DetectorSpec]
    images: int
    candidates: int
    seconds: float
