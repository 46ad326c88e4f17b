"""One candidate after the other in this process: the order of events is that of Algorithm 1."""

import time

from jdnas.search.attempt import Bench, Clock, attempt
from jdnas.search.executors.base import Job
from jdnas.search.history import Trial


class InProcess:
    """Works on a candidate when it is collected."""

    def __init__(self, bench: Bench, *, clock: Clock = time.perf_counter) -> None:
        self._bench = bench
        self._clock = clock
        self._job: Job | None = None

    @property
    def room(self) -> int:
        """1, or 0 while a candidate waits."""
        return int(self._job is None)

    def submit(self, job: Job) -> None:
        """Take a candidate."""
        self._job = job

    def collect(self) -> Trial:
        """Work on the candidate taken."""
        if self._job is None:
            raise LookupError("no candidate was submitted")
        job, self._job = self._job, None
        return attempt(job.candidate, self._bench, job.judge, clock=self._clock, started=job.started)
