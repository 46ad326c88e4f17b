"""Candidates as tasks of a Ray cluster, which places them, starts them again where a worker or a node is lost, and is otherwise left alone.

The process that searches is the driver: it alone proposes and writes the study. A task gets a candidate and its judge, and gives back a
trial; weights go through the files of the workshop that the worker opened. Docs: docs/distributed.md.
"""

import math
import os
import socket
import time
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from jdnas.errors import ConfigError, MissingExtraError, TargetError, TrainingError
from jdnas.search.attempt import Bench, Clock, Judge, attempt
from jdnas.search.executors.base import Job
from jdnas.search.history import Trial
from jdnas.search.workshop import Candidate

RETRIES = 3  # how often a candidate may lose its worker or node before it is taken for the cause
_POLL_S = 0.5  # between two looks at Ctrl-C
_KNOCK_S = 10


class Site(Protocol):
    """Where a worker finds all that candidates need; pickled, and opened once by each worker process."""

    def open(self) -> Bench:
        """Read what is needed on this machine; an InputError says what this machine lacks, and ends the search."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one candidate occupies: CPU cores, GPUs (a part of one lets candidates share it)."""

    cpus: float = 1.0
    gpus: float = 0.0

    def fitting(self, resources: dict[str, float]) -> int:
        """Return how many candidates fit into a node with these resources."""
        needs = ((self.cpus, resources.get("CPU", 0.0)), (self.gpus, resources.get("GPU", 0.0)))
        return math.floor(min((there / needed + 1e-9 for needed, there in needs if needed), default=0))


def import_ray() -> Any:
    """Return the package `ray`; a MissingExtraError says how to install it."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    return ray


def connect(address: str | None) -> Any:
    """Return `ray`, connected: to the cluster at `address`, to that of RAY_ADDRESS, or to one that is started on this machine.

    A connection that this process has already is kept.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # sites choose devices, and Ray would warn
    ray = import_ray()
    if not ray.is_initialized():
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=None if address else False)
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise TargetError(
                f"no Ray cluster at {address!r}: {reason}; start one with: ray start --head, or leave --ray-address out"
            ) from error
    return ray


def _knock(address: str | None) -> None:
    """Raise an OSError where nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()


def capacity(ray: Any, share: Share) -> int:
    """Return how many candidates fit into the nodes that are alive."""
    return sum(share.fitting(node["Resources"]) for node in ray.nodes() if node["Alive"])


def check_share(ray: Any, share: Share) -> None:
    """Raise a TargetError unless some node has what a candidate occupies."""
    if capacity(ray, share) == 0:
        nodes = [{key: node["Resources"].get(key, 0.0) for key in ("CPU", "GPU")} for node in ray.nodes() if node["Alive"]]
        there = "; ".join(f"{node['CPU']:g} CPU, {node['GPU']:g} GPU" for node in nodes)
        raise TargetError(
            f"a candidate needs {share.cpus:g} CPU and {share.gpus:g} GPU, and the cluster's nodes have {there}; "
            "lower --gpus-per-trial or --cpus-per-trial, or add a node"
        )


class RayExecutor:
    """Has up to `workers` candidates in flight, by default as many as the cluster has room for at the time."""

    def __init__(self, ray: Any, site: Site, share: Share, *, workers: int | None = None, clock: Clock = time.perf_counter) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"--workers must be at least 1, got {workers}")
        self._ray, self._share, self._workers, self._clock = ray, share, workers, clock
        self._token, self._site = uuid.uuid4().hex, ray.put(site)
        self._task = ray.remote(_work).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_retries=RETRIES, retry_exceptions=False, name="jdnas candidate"
        )
        self._jobs: dict[Any, Job] = {}

    @property
    def room(self) -> int:
        """How many more candidates may be in flight."""
        workers = self._workers if self._workers is not None else max(1, capacity(self._ray, self._share))
        return workers - len(self._jobs)

    def submit(self, job: Job) -> None:
        """Hand a candidate to Ray."""
        spent = self._clock() - job.started
        # The site's reference is inside a list, so that only a worker that is new to it fetches it.
        self._jobs[self._task.remote([self._site], self._token, job.candidate, job.judge, spent)] = job

    def collect(self) -> Trial:
        """Wait for the first candidate that is finished; what its work raised beyond its own faults is raised here."""
        errors = self._ray.exceptions
        ready: list[Any] = []
        while not ready:
            ready, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=_POLL_S)
        job = self._jobs.pop(ready[0])
        try:
            trial: Trial = self._ray.get(ready[0])
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayError as error:
            return _lost(job.candidate, error)
        return trial

    def close(self) -> None:
        """Stop the candidates in flight."""
        for reference in self._jobs:
            self._ray.cancel(reference, force=True)
        self._jobs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _lost(candidate: Candidate, error: Exception) -> Trial:
    """Return what is recorded of a candidate that Ray gave up: each of its workers or nodes was lost."""
    reason = f"{type(error).__name__}: lost with its worker or node {RETRIES + 1} times"
    if candidate.choice == "base":
        raise TrainingError(f"the base could not be evaluated: {reason}; see the logs of Ray on the nodes") from error
    return Trial(candidate, "failed", candidate.origin, reason=reason)


_opened: dict[str, Bench] = {}


def _work(site: list[Any], token: str, candidate: Candidate, judge: Judge, spent: float) -> Trial:
    """Work on a candidate in a worker process; `spent` are the seconds that the driver took for it."""
    started = time.perf_counter() - spent
    if token not in _opened:
        _opened.clear()  # of an earlier run
        _opened[token] = import_ray().get(site[0]).open()
    return attempt(candidate, _opened[token], judge, started=started)
