"""What the search exchanges with the outside: candidates, outcomes, the cost function and the workshop that trains."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from jdnas.errors import ConfigError
from jdnas.spec import DetectorSpec

SizeHW = tuple[int, int]
Cost = Callable[[DetectorSpec, SizeHW], float]
ActionData = dict[str, Any]
Choice = Literal["base", "student", "teacher"]


def size_key(size_hw: SizeHW) -> str:
    """Name a resolution: `HEIGHTxWIDTH`."""
    return f"{size_hw[0]}x{size_hw[1]}"


def size_hw_from_key(key: str) -> SizeHW:
    """Read what `size_key` wrote."""
    height, width = key.split("x")
    return int(height), int(width)


def json_data(value: Any) -> Any:
    """Return `value` as it reads after it was stored as JSON."""
    return json.loads(json.dumps(value))


@dataclass(frozen=True, slots=True)
class SearchTask:
    """What is searched: the base student, the pool's largest net as its first teacher, and the resolutions to choose from."""

    base: DetectorSpec
    teacher: DetectorSpec
    sizes_hw: tuple[SizeHW, ...]
    base_size_hw: SizeHW

    def __post_init__(self) -> None:
        if self.base_size_hw not in self.sizes_hw:
            known = ", ".join(size_key(size) for size in self.sizes_hw)
            raise ConfigError(f"the base resolution {size_key(self.base_size_hw)} is not among those of the search: {known}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        sizes = [list(size) for size in self.sizes_hw]
        return {"base": self.base.to_dict(), "teacher": self.teacher.to_dict(), "sizes_hw": sizes, "base_size_hw": list(self.base_size_hw)}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "SearchTask":
        """Read what `to_dict` wrote."""
        base, teacher = (DetectorSpec.from_dict(data[key]) for key in ("base", "teacher"))
        height, width = data["base_size_hw"]
        return SearchTask(base, teacher, tuple((h, w) for h, w in data["sizes_hw"]), (height, width))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposal: a parent and one change of its student or of its teacher.

    `origin` is the parent's student (the base for number 0), to which `action` is to be applied; `teacher` is the one to train with;
    `parent_files` are the files that the parent's outcome named; `seed` is for the candidate's training. `known` counts the candidates
    that had finished when this one was proposed; the rest of those with smaller numbers were in flight.
    """

    number: int
    parent: int | None
    generation: int
    choice: Choice
    action: ActionData | None
    origin: DetectorSpec
    teacher: DetectorSpec
    seed: int
    parent_files: dict[str, str] = field(default_factory=dict)
    known: int = 0

    @property
    def change(self) -> str:
        """What is changed: the kind of the action, `teacher`, or `base`."""
        return self.choice if self.action is None else str(self.action["kind"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trained and evaluated candidate.

    `metrics` has one entry per resolution (`size_key`), each a JSON object with at least `ap` in [0, 1]; `images` counts the training
    images of this candidate alone; `files` names what was left behind, by role.
    `early_aps` are its APs after the first epochs, where a `Rung` asked for them; `stopped` is the verdict that ended it there, without
    further metrics. `note` is what was unusual about its training.
    """

    metrics: Mapping[str, Mapping[str, Any]]
    images: int
    files: Mapping[str, str] = field(default_factory=dict)
    early_aps: Mapping[str, float] | None = None
    stopped: str | None = None
    note: str | None = None


class EarlyLook(Protocol):
    """What is asked of a candidate in its training (see `jdnas.search.halving.Rung`)."""

    @property
    def epochs(self) -> float:
        """Epochs after which it is evaluated."""

    def verdict(self, aps: Mapping[str, float]) -> str | None:
        """Say why a candidate with these APs per `size_key` is to be stopped; None when it goes on."""


class Workshop(Protocol):
    """Makes candidates real. All of it must be repeatable: a killed run asks again for the candidate that it was at."""

    def sample_action(self, spec: DetectorSpec, rng: random.Random, generation: int) -> ActionData | None:
        """Draw a legal action for `spec` as JSON data with its `kind`; None where there is none."""

    def mutate_teacher(self, teacher: DetectorSpec, rng: random.Random) -> DetectorSpec | None:
        """Change the depth or a width of one stage of `teacher` within the pool; None where that cannot be done."""

    def evolve(self, candidate: Candidate) -> DetectorSpec:
        """Apply the candidate's action to its parent; the result may depend on the parent's weights."""

    def evaluate(self, candidate: Candidate, student: DetectorSpec, look: EarlyLook | None = None) -> Outcome:
        """Inherit the parent's weights, train with the teacher and evaluate at every resolution; the base is only evaluated.

        With a `look`, a training that is longer than its epochs is evaluated after them, and ended where the verdict says so.
        """
