"""Where commands write: JSON alone on stdout, progress on stderr, nothing that a log cannot hold."""

import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console
from rich.table import Table
from typer.main import get_command

from jdnas.cli import app
from jdnas.cli.output import Output
from jdnas.pipeline.progress import JobProgress, counting, shows_bars

LONG = (
    "optimize", "train", "teacher train", "teacher eval", "search", "distill", "prune", "export", "predict", "data check",
    "latency measure", "latency validate", "latency adapt",
)  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_long_commands_can_be_quiet_and_speak_json(name: str) -> None:
    command = get_command(app)
    for word in name.split():
        command = command.commands[word]
    assert {"--quiet", "--json"} <= {option for parameter in command.params for option in parameter.opts}


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.console.print("progress")
    output.result({"ap": 0.5}, "for people", Table("for people"))
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"ap": 0.5} and captured.err.strip() == "progress"


def test_people_get_what_is_shown_and_the_quiet_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Output().result({"ap": 0.5}, "for [people]")
    assert capsys.readouterr().out == "for [people]\n"
    Output(quiet=True).result({"ap": 0.5}, "for people")
    assert capsys.readouterr().out == ""
    Output(quiet=True, as_json=True).result([1], "for people")
    assert json.loads(capsys.readouterr().out) == [1]


def test_a_log_has_whole_lines_without_control_codes() -> None:
    file = io.StringIO()
    progress = JobProgress(Console(file=file, width=40, color_system=None), 10.0)
    with progress.running():
        progress.say("[yellow]" + "a long message " * 10 + "[/yellow]")
    assert file.getvalue() == "a long message " * 10 + "\n"


def test_counts_are_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("jdnas.pipeline.progress.time.monotonic", lambda: now[0])
    file = io.StringIO()
    with counting(Console(file=file, width=40)) as count:
        for done in range(1, 11):
            now[0] += 9
            count("reading images", done, 10)
    lines = file.getvalue().splitlines()
    assert len(lines) == 3 and lines[0].split() == ["reading", "images", "3/10", "30%", "done,", "elapsed", "0:18,", "ETA", "0:42"]


def test_a_pipe_gets_no_control_codes(coco) -> None:
    root = coco(images=12)
    code = "import sys; from jdnas.cli import main; sys.argv = ['jdnas', 'data', 'check', sys.argv[1], '--out', sys.argv[2]]; main()"
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    environment["TERM"] = "xterm-256color"
    command = [sys.executable, "-c", code, str(root), str(root / "check")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stdout + done.stderr
    *tables, files = done.stdout.splitlines()
    assert "thing1" in done.stdout and max(map(len, tables)) <= 140 and files.count("check.") == 2


def test_notebooks_get_bars_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Console(file=io.StringIO(), force_jupyter=True, force_terminal=False)
    for spec, expected in ((None, False), (object(), True)):
        monkeypatch.setattr("jdnas.pipeline.progress.find_spec", lambda name, spec=spec: spec)
        assert shows_bars(notebook) is expected
    assert not shows_bars(Console(file=io.StringIO()))


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    with counting(Console(file=file, force_terminal=True, width=100)) as count:
        count("reading images", 5, 10)
    assert "reading images 5/10" in file.getvalue() and "ETA" in file.getvalue() and "\x1b" in file.getvalue()
    file = io.StringIO()
    with counting(Console(file=file, force_terminal=True, width=100), quiet=True) as count:
        count("reading images", 5, 10)
    assert file.getvalue() == ""
