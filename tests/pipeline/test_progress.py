import io

import pytest
from rich.console import Console

from jdnas.pipeline.progress import JobProgress, clock_text


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr("jdnas.pipeline.progress.time", fake)
    return fake


def printed(progress: JobProgress) -> str:
    return progress.console.file.getvalue()  # type: ignore[attr-defined]


def job(planned: float, **options: bool) -> JobProgress:
    return JobProgress(Console(file=io.StringIO(), width=200), planned, **options)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (5.4, "0:05"), (65, "1:05"), (3600, "1:00:00"), (7390, "2:03:10"), (-3, "0:00")]
)
def test_clock_text(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_eta_follows_from_the_speed(clock: Clock) -> None:
    progress = job(100)
    assert progress.eta == "?"
    progress.advance(25)
    clock.now += 30
    assert progress.eta == "1:30"
    progress.replan(-25)
    assert progress.eta == "1:00"


def test_a_stage_counts_exactly_its_units(clock: Clock) -> None:
    progress = job(100)
    with progress.running():
        with progress.stage("first", 40):
            step = progress.steps(30, 3)
            for index in range(3):
                step(index + 1, 0.5)
        assert progress.done == 40
        with progress.stage("skipped", 60):
            pass
    assert progress.done == 100 and "first" in printed(progress) and "elapsed 0:00, ETA ?" in printed(progress)


def test_logs_get_a_line_now_and_then(clock: Clock) -> None:
    progress = job(100)
    with progress.running(), progress.stage("training", 100):
        for step in range(10):
            clock.now += 9
            progress.advance(10, f"step {step}")
    lines = [line for line in printed(progress).splitlines() if "% done" in line]
    assert len(lines) == 3 and lines[0].split() == ["training", "step", "2", "30%", "done,", "elapsed", "0:27,", "ETA", "1:03"]


def test_quiet_prints_nothing(clock: Clock) -> None:
    progress = job(10, quiet=True)
    with progress.running(), progress.stage("training", 10):
        clock.now += 100
        progress.advance(5)
    assert printed(progress) == ""
