import threading
from typing import Any

import numpy as np
import pytest

from export.runners import Runner, padded_run
from jdnas.serve.batching import Batcher, BatchReport
from tests.serve.conftest import Hooked, noise, same

REFUSED = 77.0


def _nothing(_: Any) -> None:
    pass


def test_jobs_that_wait_run_together_and_each_gets_its_own_result(runner: Runner) -> None:
    free = threading.Event()
    hooked, reports = Hooked(runner, lambda _: free.wait()), list[BatchReport]()
    batcher = Batcher(hooked, delay_s=0.0, inside=lambda: 99, report=reports.append)
    inputs = [noise(seed) for seed in range(7)]
    futures = [batcher.submit(*one) for one in inputs]
    free.set()
    found = [future.result(10) for future in futures]
    batcher.close()
    assert all(same(got, padded_run(runner, *one)) for got, one in zip(found, inputs, strict=True))
    # The first may have gone alone; all others waited and went in pairs.
    assert sum(report.rows for report in reports) == 7 and len(reports) == 4
    assert all(report.ran_s >= 0 and report.waited_s >= 0 for report in reports)


def test_a_job_waits_for_company_only_as_long_as_the_delay(runner: Runner) -> None:
    hooked = Hooked(runner, _nothing)
    batcher = Batcher(hooked, delay_s=5.0, inside=lambda: 99, report=_nothing)
    one, two = batcher.submit(*noise(1)), batcher.submit(*noise(2))
    one.result(4), two.result(4)  # a full batch does not wait at all
    batcher.close()
    assert hooked.given == [2]
    batcher = Batcher(hooked, delay_s=0.01, inside=lambda: 99, report=_nothing)
    assert batcher.submit(*noise(3)).result(4)["count"].shape == (1,)
    batcher.close()


def test_a_job_that_is_alone_does_not_wait(runner: Runner) -> None:
    hooked = Hooked(runner, _nothing)
    batcher = Batcher(hooked, delay_s=60.0, inside=lambda: 1, report=_nothing)
    assert batcher.submit(*noise(1)).result(30)["count"].shape == (1,)
    batcher.close()


def test_a_job_that_does_not_fit_is_the_next_batchs_first(runner: Runner) -> None:
    free = threading.Event()
    batcher = Batcher(Hooked(runner, lambda _: free.wait()), delay_s=0.0, inside=lambda: 99, report=_nothing)
    inputs = [noise(1), noise(2), noise(3, 2), noise(4)]
    futures = [batcher.submit(*one) for one in inputs]
    free.set()
    for future, one in zip(futures, inputs, strict=True):
        got, wanted = future.result(10), padded_run(runner, *one)
        assert all(same({name: array[row : row + 1] for name, array in got.items()}, wanted, row) for row in range(len(one[0])))
    batcher.close()


def test_only_the_job_at_fault_fails(runner: Runner) -> None:
    def refuse(images: Any) -> None:
        if (images == REFUSED).any():
            raise RuntimeError("these pixels")

    free = threading.Event()
    batcher = Batcher(Hooked(runner, lambda images: (free.wait(), refuse(images))), delay_s=0.0, inside=lambda: 99, report=_nothing)
    good, bad = noise(1), noise(2)
    bad[0][0, 0, 0, 0] = REFUSED
    first, second, third = batcher.submit(*good), batcher.submit(*good), batcher.submit(*bad)
    free.set()
    assert same(first.result(10), padded_run(runner, *good)) and same(second.result(10), padded_run(runner, *good))
    with pytest.raises(RuntimeError, match="these pixels"):
        third.result(10)
    assert same(batcher.submit(*good).result(10), padded_run(runner, *good))
    batcher.close()


def test_a_cancelled_job_does_not_run_and_closing_runs_the_rest(runner: Runner) -> None:
    started, free = threading.Event(), threading.Event()
    hooked = Hooked(runner, lambda _: (started.set(), free.wait()))
    batcher = Batcher(hooked, delay_s=0.0, inside=lambda: 99, report=_nothing)
    futures = [batcher.submit(*noise(0, 2))]
    started.wait()
    futures += [batcher.submit(*noise(seed, 2)) for seed in range(1, 4)]
    assert futures[1].cancel()
    free.set()
    batcher.close()
    assert hooked.given == [2, 2, 2] and not batcher.alive
    assert all(np.isfinite(future.result(0)["scores"]).all() for future in (futures[0], *futures[2:]))
