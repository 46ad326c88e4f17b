"""Prometheus metrics of a server."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from jdnas.serve.batching import BatchReport
from jdnas.serve.limits import Refusal

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one server, in a registry of their own. Only names of loaded models become labels."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        model = ["model"]
        self._requests = Counter("jdnas_requests", "Inference requests by status.", ["model", "kind", "code"], registry=registry)
        self._seconds = Histogram("jdnas_request_seconds", "From headers to reply.", model, buckets=_SECONDS, registry=registry)
        self._waited = Histogram("jdnas_queue_seconds", "Longest wait in a batch.", model, buckets=_SECONDS, registry=registry)
        self._ran = Histogram("jdnas_run_seconds", "One call of the runner.", model, buckets=_SECONDS, registry=registry)
        self._rows = Histogram("jdnas_batch_images", "Images in a call.", model, buckets=(1, 2, 4, 8, 16, 32), registry=registry)
        self._inside = Gauge("jdnas_requests_inside", "Requests read, waiting or running.", model, registry=registry)

    @contextmanager
    def request(self, model: str, kind: str) -> Iterator[None]:
        """Count and time what happens inside as one request of a model."""
        started, code = time.perf_counter(), 200
        try:
            yield
        except Refusal as refusal:
            code = refusal.status
            raise
        except BaseException:
            code = 500
            raise
        finally:
            self._requests.labels(model, kind, str(code)).inc()
            self._seconds.labels(model).observe(time.perf_counter() - started)

    def batch(self, model: str) -> Callable[[BatchReport], None]:
        """Return a function that records the calls of a model's runner."""
        waited, ran, rows = (family.labels(model) for family in (self._waited, self._ran, self._rows))

        def record(report: BatchReport) -> None:
            waited.observe(report.waited_s)
            ran.observe(report.ran_s)
            rows.observe(report.rows)

        return record

    def inside(self, model: str) -> Callable[[int], None]:
        """Return a function that sets the number of a model's requests in the server."""
        return self._inside.labels(model).set

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
