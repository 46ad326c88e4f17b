"""A simulated workshop for Ray workers; it notes which process on which node began and finished each candidate."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import ray

from jdnas.errors import MissingExtraError, TrainingError
from jdnas.search.attempt import Bench
from jdnas.search.workshop import Candidate, EarlyLook, Outcome
from jdnas.spec import DetectorSpec
from tests.search.simulated import Simulator, cost


@dataclass
class NotingSimulator(Simulator):
    folder: str = ""

    def evaluate(self, candidate: Candidate, student: DetectorSpec, look: EarlyLook | None = None) -> Outcome:
        note = Path(self.folder) / f"{candidate.number:04d}.{os.getpid()}.{ray.get_runtime_context().get_node_id()}"
        note.with_suffix(note.suffix + ".begun").touch()
        outcome = super().evaluate(candidate, student, look)
        note.with_suffix(note.suffix + ".done").touch()
        return outcome


@dataclass(frozen=True)
class SimulatedSite:
    """`errors` names what goes wrong with some candidates: an exception's class, or `exit`, which ends the worker process."""

    folder: str
    seconds: float = 0.0
    errors: tuple[tuple[int, str], ...] = ()

    def open(self) -> Bench:
        kinds: dict[str, BaseException] = {
            "TrainingError": TrainingError("diverged"), "MissingExtraError": MissingExtraError("thing", "things"),
            "TypeError": TypeError("oops"), "OSError": OSError(28, "No space left on device"),
        }  # fmt: skip
        failing = {number: kinds[name] for number, name in self.errors if name != "exit"}
        fatal = {number for number, name in self.errors if name == "exit"}
        return Bench(Fatal(folder=self.folder, seconds=self.seconds, failing=failing, fatal=fatal), cost)


@dataclass
class Fatal(NotingSimulator):
    fatal: set[int] | None = None

    def evaluate(self, candidate: Candidate, student: DetectorSpec, look: EarlyLook | None = None) -> Outcome:
        if self.fatal and candidate.number in self.fatal:
            os._exit(1)
        return super().evaluate(candidate, student, look)


@dataclass(frozen=True)
class LackingSite:
    """Cannot be opened on any machine."""

    def open(self) -> Bench:
        time.sleep(0.01)
        raise MissingExtraError("thing", "things")
