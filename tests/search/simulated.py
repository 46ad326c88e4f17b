"""A search over make-believe detectors: AP follows from widths, teacher and lineage by arithmetic. Runs as a program for kill tests."""

import hashlib
import math
import random
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from jdnas.search.climb import run
from jdnas.search.history import History, Trial
from jdnas.search.settings import SearchSettings
from jdnas.search.study import SearchStudy, sqlite_url
from jdnas.search.workshop import ActionData, Candidate, Choice, EarlyLook, Outcome, SearchTask, size_key
from jdnas.spec import DetectorSpec, Stage

SMALL, LARGE = (96, 96), (128, 128)


def resnet(width: int, depth: int = 2, neck: int = 64) -> DetectorSpec:
    stages = tuple(Stage(width * 2**i, (width * 2**i,) * depth) for i in range(4))
    return DetectorSpec("resnet_basic", width, stages, num_classes=3, neck=neck)


TASK = SearchTask(resnet(32), resnet(48, depth=4), (SMALL, LARGE), LARGE)
SLOW = SearchSettings(trials=15, patience=1000, seed=4)


def size_of(spec: DetectorSpec) -> float:
    """Something like millions of parameters."""
    return sum(stage.width * sum(stage.inner) for stage in spec.stages) / 1e6 * 18


def cost(spec: DetectorSpec, size_hw: tuple[int, int]) -> float:
    return (1 + size_of(spec)) * size_hw[0] * size_hw[1] / 1e4


def noise(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:6], 16) / 0xFFFFFF


@dataclass
class Simulator:
    """A workshop. `calls` records what it was asked; `failing` maps candidate numbers to what their evaluation raises."""

    calls: list[str] = field(default_factory=list)
    failing: dict[int, BaseException] = field(default_factory=dict)
    seconds: float = 0.0

    def sample_action(self, spec: DetectorSpec, rng: random.Random, generation: int) -> ActionData | None:
        index = rng.randrange(4)
        kind = rng.choice(["prune_channels", "prune_layer", "add_layer"])
        if kind == "prune_layer" and spec.stages[index].depth == 1:
            return None
        return {"kind": kind, "stage": index, "ratio": rng.choice([0.1, 0.2, 0.3]), "at": (index, 0)}

    def mutate_teacher(self, teacher: DetectorSpec, rng: random.Random) -> DetectorSpec | None:
        stage = teacher.stages[index := rng.randrange(4)]
        return teacher.with_stage(index, replace(stage, inner=stage.inner[:1] * rng.randint(2, 4)))

    def evolve(self, candidate: Candidate) -> DetectorSpec:
        self.calls.append(f"evolve {candidate.number}")
        assert candidate.action is not None
        spec, index = candidate.origin, int(candidate.action["stage"])
        stage = spec.stages[index]
        if candidate.action["kind"] == "prune_layer":
            return spec.with_stage(index, replace(stage, inner=stage.inner[:-1]))
        if candidate.action["kind"] == "add_layer":
            return spec.with_stage(index, replace(stage, inner=(*stage.inner, stage.inner[-1])))
        inner = tuple(max(4, int(width * (1 - candidate.action["ratio"]))) for width in stage.inner)
        return spec.with_stage(index, replace(stage, inner=inner))

    def evaluate(self, candidate: Candidate, student: DetectorSpec, look: EarlyLook | None = None) -> Outcome:
        self.calls.append(f"evaluate {candidate.number}")
        time.sleep(self.seconds)
        if candidate.number in self.failing:
            raise self.failing[candidate.number]
        mismatch = abs(math.log(size_of(candidate.teacher) / size_of(student) / 3))
        luck = noise(f"{candidate.seed} {student.key} {candidate.teacher.key}")
        learned = 0.3 * size_of(student) ** 0.05 + 0.02 * math.exp(-mismatch) + 0.01 * luck
        metrics = {size_key(size): {"ap": learned * (size[0] / 128) ** 0.2, "ap50": 0.9} for size in (SMALL, LARGE)}
        early = None if look is None else {size: 0.8 * values["ap"] for size, values in metrics.items()}
        if look is not None and early is not None and (verdict := look.verdict(early)):
            return Outcome({}, 40, early_aps=early, stopped=verdict)
        lineage = hashlib.sha256(f"{candidate.parent_files.get('weights')} {candidate.action} {student.key}".encode()).hexdigest()
        images = 0 if candidate.choice == "base" else 100 + candidate.number
        return Outcome(metrics, images, files={"weights": lineage[:12]}, early_aps=early)


def trial(number: int, score: float, *, parent: int | None = None, kind: str | None = None, student: DetectorSpec | None = None) -> Trial:
    """A finished trial with AP = score; one without a `kind` evolved its teacher."""
    choice: Choice = "base" if parent is None else "student" if kind else "teacher"
    action = {"kind": kind, "of": number} if kind else None
    teacher = TASK.teacher if choice != "teacher" else resnet(48, depth=2, neck=number + 1)
    candidate = Candidate(number, parent, 0, choice, action, TASK.base, teacher, number)
    spec = student if student is not None else resnet(32 + number)
    metrics = {"128x128": {"ap": score}}
    return Trial(candidate, "complete", spec, {"128x128": 1.0}, metrics, "128x128", score, 1.0, score, seconds=2.0, images=10 * number)


def essence(history: History) -> list[Trial]:
    """All of a history that does not depend on the clock."""
    return [replace(trial, seconds=0.0, overhead_seconds=0.0) for trial in history]


if __name__ == "__main__":
    with SearchStudy.open(sqlite_url(Path(sys.argv[1])), TASK, SLOW) as slow:
        run(slow, Simulator(seconds=0.02), cost, on_finish=lambda trial, _: print(trial.number, flush=True))
