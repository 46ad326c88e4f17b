"""What the search asks of an executor."""

from dataclasses import dataclass
from typing import Protocol

from jdnas.search.attempt import Judge
from jdnas.search.history import Trial
from jdnas.search.workshop import Candidate


@dataclass(frozen=True, slots=True)
class Job:
    """A candidate to work on; `started` is when the search turned to it, by its own clock."""

    candidate: Candidate
    judge: Judge
    started: float


class Executor(Protocol):
    """Works on candidates. What it loses with a process or a machine it does again; what it cannot do, it says as `attempt` does."""

    @property
    def room(self) -> int:
        """How many candidates it would take now; at least 1 while it has none."""

    def submit(self, job: Job) -> None:
        """Take a candidate, without waiting for it."""

    def collect(self) -> Trial:
        """Wait until one of the candidates taken is finished, and return what became of it."""
