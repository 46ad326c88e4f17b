"""What a search has found: frozen records of candidates, and their ranking."""

import json
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from jdnas.search.workshop import ActionData, Candidate, Choice
from jdnas.spec import DetectorSpec

TrialState = Literal["complete", "refused", "stopped", "failed"]
Pair = tuple[DetectorSpec, DetectorSpec]


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate and what became of it.

    `costs` and `metrics` are per resolution (`size_key`); `size`, `ap`, `cost` and `score` belong to the best resolution and are None
    unless the trial is complete. `seconds` is training and evaluation, `overhead_seconds` all the rest. `student` is the candidate's
    origin where its action failed. `reason` says why it was refused, stopped or failed, or what was unusual about it. `rung` is its score
    after the first epochs (`halving.Rung`), None where nobody looked.
    """

    candidate: Candidate
    state: TrialState
    student: DetectorSpec
    costs: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    size: str | None = None
    ap: float | None = None
    cost: float | None = None
    score: float | None = None
    seconds: float = 0.0
    overhead_seconds: float = 0.0
    images: int = 0
    files: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    rung: float | None = None

    @property
    def number(self) -> int:
        """Number of the candidate; 0 is the base."""
        return self.candidate.number

    @property
    def parent(self) -> int | None:
        """Number of the candidate that this one came from."""
        return self.candidate.parent

    @property
    def generation(self) -> int:
        """How often the best score had risen when the candidate was proposed (Joint-DetNAS, 4.3.2)."""
        return self.candidate.generation

    @property
    def choice(self) -> Choice:
        """What was evolved."""
        return self.candidate.choice

    @property
    def teacher(self) -> DetectorSpec:
        """The teacher that the student was trained with."""
        return self.candidate.teacher

    @property
    def pair(self) -> Pair:
        """The student-teacher pair."""
        return self.student, self.teacher

    def ap_at(self, size: str) -> float:
        """Return the AP at a resolution (`size_key`)."""
        return float(self.metrics[size]["ap"])


def proposal_key(parent: int, action: ActionData | None, teacher: DetectorSpec) -> str:
    """Return text that is equal exactly for equal changes of one parent."""
    return f"{parent} {teacher.key} {json.dumps(action, sort_keys=True)}"


class History:
    """Finished candidates, ranked by score.

    Equal pairs take one place in the ranking, held by the better of them, so that the list cannot fill with copies; equal scores rank
    by age. Trials stay in the order in which they finished, and adding one costs the same however many there are. What is in flight is
    announced by `expect`, so that it is not proposed twice. `best_aps` is the best AP so far per resolution, `generation` counts the
    gains, `stale` the candidates since the last one (failed ones aside), `seconds` sums what all took, `images` what all trained on;
    `rung_scores` are their scores after the first epochs, ascending.
    """

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self._trials: dict[int, Trial] = {}
        self._places: dict[Pair, tuple[float, int]] = {}
        self._ranking: list[tuple[float, int]] = []
        self._proposed: set[str] = set()
        self.best_aps: dict[str, float] = {}
        self.generation = 0
        self.stale = 0
        self.seconds = 0.0
        self.images = 0
        self.rung_scores: list[float] = []
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> bool:
        """Add a finished candidate; say whether the best score rose."""
        if trial.number in self._trials:
            raise ValueError(f"candidate {trial.number} is in the history already")
        self._trials[trial.number] = trial
        self.seconds += trial.seconds + trial.overhead_seconds
        self.images += trial.images
        if trial.rung is not None:
            insort(self.rung_scores, trial.rung)
        self.expect(trial.candidate)
        best = -self._ranking[0][0] if self._ranking else None
        if trial.score is not None:
            self._rank(trial, trial.score)
            for size in trial.metrics:
                self.best_aps[size] = max(trial.ap_at(size), self.best_aps.get(size, 0.0))
        rose = trial.score is not None and (best is None or trial.score > best)
        self.stale = 0 if rose else self.stale + (trial.state != "failed")
        self.generation += rose and best is not None
        return rose

    def expect(self, candidate: Candidate) -> None:
        """Remember a candidate that is not finished yet as proposed."""
        if candidate.parent is not None:
            self._proposed.add(proposal_key(candidate.parent, candidate.action, candidate.teacher))

    def _rank(self, trial: Trial, score: float) -> None:
        place, held = (-score, trial.number), self._places.get(trial.pair)
        if held is not None:
            if held < place:
                return
            del self._ranking[bisect_left(self._ranking, held)]
        insort(self._ranking, place)
        self._places[trial.pair] = place

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials.values())

    def __contains__(self, number: int) -> bool:
        return number in self._trials

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    @property
    def complete(self) -> list[Trial]:
        """The trials that were trained and evaluated."""
        return [trial for trial in self if trial.state == "complete"]

    def top_k(self, k: int) -> list[Trial]:
        """Return the best `k` pairs, best first."""
        return [self._trials[number] for _, number in self._ranking[:k]]

    def best(self) -> Trial:
        """Return the best pair; a LookupError when nothing was evaluated."""
        if not self._ranking:
            raise LookupError("no candidate was evaluated")
        return self._trials[self._ranking[0][1]]

    def score_at(self, rank: int) -> float | None:
        """Return the score at a rank, 1 being the best; None when there are not so many pairs."""
        return -self._ranking[rank - 1][0] if rank <= len(self._ranking) else None

    def was_proposed(self, parent: int, action: ActionData | None, teacher: DetectorSpec) -> bool:
        """Say whether this change of this parent was proposed, whatever came or is still to come of it."""
        return proposal_key(parent, action, teacher) in self._proposed

    def lineage(self, number: int) -> list[Trial]:
        """Return the trials from the base to a candidate."""
        line = [self[number]]
        while (parent := line[-1].parent) is not None:
            line.append(self[parent])
        return line[::-1]

    def lineage_images(self, number: int) -> int:
        """Return the training images that a candidate's weights have seen since the base, which a fair control is given too."""
        return sum(trial.images for trial in self.lineage(number))
