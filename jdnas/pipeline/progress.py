"""Progress of a job: one bar over all its steps with an ETA in a terminal or notebook, a line now and then in a pipe or CI log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

LOG_EVERY_SECONDS = 20.0
StepCallback = Callable[[int, float], None]
CountCallback = Callable[[str, int, int], None]


def clock_text(seconds: float) -> str:
    """Write a duration as 1:05 or 2:03:10."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def shows_bars(console: Console) -> bool:
    """Tell whether a bar can be redrawn in place: in a terminal, and in a notebook that has widgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


class JobProgress:
    """Work done of work planned, in any unit that is proportional to time; the ETA follows from the speed so far."""

    def __init__(self, console: Console, planned: float, *, quiet: bool = False) -> None:
        self.console, self.planned, self.quiet = console, planned, quiet
        self.live = shows_bars(console) and not quiet
        self.done = 0.0
        self.title = ""
        self.started = self.logged = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @property
    def eta(self) -> str:
        """Time that the rest will take at the speed so far; `?` before there is a speed."""
        elapsed = time.monotonic() - self.started
        if self.done <= 0 or elapsed < 1:
            return "?"
        return clock_text(elapsed / self.done * max(0.0, self.planned - self.done))

    @contextmanager
    def running(self) -> Iterator["JobProgress"]:
        """Show the bar while the job runs."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
                   TimeElapsedColumn(), TextColumn("ETA {task.fields[eta]}"))  # fmt: skip
        with Progress(*columns, console=self.console, disable=not self.live, transient=True) as bar:
            self._bar, self._task = bar, bar.add_task("starting", total=self.planned, eta="?")
            yield self
        self._bar = None

    def say(self, message: str) -> None:
        """Print a line above the bar; a log gets it in one line, however long it is."""
        if not self.quiet:
            self.console.print(message, highlight=False, soft_wrap=not self.live)

    @contextmanager
    def stage(self, title: str, units: float) -> Iterator[None]:
        """Name what runs now; on leaving, exactly `units` of the plan count as done."""
        self.title, before = title, self.done
        self.say(f"[bold]{title}[/bold]  [dim](elapsed {clock_text(time.monotonic() - self.started)}, ETA {self.eta})[/dim]")
        yield
        self.advance(before + units - self.done)

    def now(self, what: str, finished: float = 0.0) -> None:
        """Name a part of the stage that begins, after `finished` units of it."""
        self.title = what
        self.say(f"  {what}")
        self.advance(finished)

    def advance(self, units: float, note: str = "") -> None:
        """Count work as done."""
        self.done += units
        if self._bar is not None and self._task is not None:
            text = f"{self.title} {note}".strip()
            self._bar.update(self._task, completed=self.done, total=self.planned, description=text, eta=self.eta)
        now = time.monotonic()
        if not self.live and now - self.logged > LOG_EVERY_SECONDS:
            self.logged = now
            share = 100 * self.done / max(self.planned, 1e-9)
            self.say(f"  {self.title} {note}  {share:.0f}% done, elapsed {clock_text(now - self.started)}, ETA {self.eta}")

    def replan(self, units: float) -> None:
        """Correct the plan by `units`, for instance when a candidate was refused and will cost nothing."""
        self.planned = max(self.done, self.planned + units)

    def steps(self, units: float, steps: int) -> StepCallback:
        """Return an `on_step` callback of a training whose `steps` steps amount to `units`."""
        return lambda step, loss: self.advance(units / steps, f"step {step}/{steps} loss {loss:.3f}")


@contextmanager
def counting(console: Console, *, quiet: bool = False) -> Iterator[CountCallback]:
    """Show how far a step has come whose size is only known while it runs: call with what is done, and how much of how much.

    A new name starts the count and its ETA anew.
    """
    progress = JobProgress(console, 1.0, quiet=quiet)

    def count(what: str, done: int, total: int) -> None:
        if what != progress.title:
            progress.title, progress.done, progress.started = what, 0.0, time.monotonic()
        progress.planned = float(max(total, 1))
        progress.advance(done - progress.done, f"{done}/{total}")

    with progress.running():
        yield count
