"""One thread per model that runs waiting requests together, as many as the engine takes at once."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from export.runners import Runner, padded_run
from export.session import Array

Outputs = dict[str, Array]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one call of the runner took: images in it, the longest wait before it, and its own time."""

    rows: int
    waited_s: float
    ran_s: float


@dataclass(frozen=True, slots=True)
class _Job:
    images: Array
    sizes_hw: Array
    future: "Future[Outputs]"
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Runs jobs in their order of arrival; the only user of its runner.

    A job waits up to `delay_s` after its arrival for others that fill the engine's batch, as long as `inside()`, the number of requests
    that are being read, waiting or answered, says that there may be others. Where a joint run fails, its jobs run one by one, so that
    only the one at fault fails.
    """

    def __init__(self, runner: Runner, *, delay_s: float, inside: Callable[[], int], report: Callable[[BatchReport], object]) -> None:
        self._runner, self._delay_s, self._inside, self._report = runner, delay_s, inside, report
        self._size = runner.metadata.batch
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._held: _Job | None = None
        self._thread = threading.Thread(target=self._work, name="jdnas-batcher", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether jobs are still run."""
        return self._thread.is_alive()

    def submit(self, images: Array, sizes_hw: Array) -> "Future[Outputs]":
        """Queue 1 to B images `[b, 3, H, W]` with their sizes; a job that is cancelled before its turn does not run."""
        job = _Job(images, sizes_hw, Future())
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Run what is queued and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._collect():
            live = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if live:
                self._run(live)

    def _collect(self) -> list[_Job]:
        """Return the next jobs that run together; none after `close`."""
        first = self._held or self._jobs.get()
        self._held = None
        if first is None:
            return []
        jobs, rows = [first], len(first.images)
        while rows < self._size:
            patience = self._delay_s if self._inside() > len(jobs) else 0.0
            try:
                job = self._jobs.get(timeout=max(0.0, first.since + patience - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)
                break
            if rows + len(job.images) > self._size:
                self._held = job
                break
            jobs.append(job)
            rows += len(job.images)
        return jobs

    def _run(self, jobs: list[_Job]) -> None:
        started = time.monotonic()
        try:
            alone = len(jobs) == 1
            images = jobs[0].images if alone else np.concatenate([job.images for job in jobs])
            sizes = jobs[0].sizes_hw if alone else np.concatenate([job.sizes_hw for job in jobs])
            outputs = padded_run(self._runner, images, sizes)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:
                for job in jobs:
                    self._run([job])
            return
        took, at = time.monotonic() - started, 0
        for job in jobs:
            end = at + len(job.images)
            job.future.set_result({name: array[at:end] for name, array in outputs.items()})
            at = end
        self._report(BatchReport(len(images), started - jobs[0].since, took))
