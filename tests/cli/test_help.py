import re
import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "optuna", "plotly", "numpy")
COMMANDS = (
    "optimize", "train", "teacher train", "teacher space", "search", "search status", "report", "config", "export", "eval", "predict",
    "complexity", "bases", "upgrade", "reproduce", "data split", "latency targets", "latency measure", "latency benchmark",
)  # fmt: skip


def test_help_of_every_command_imports_nothing_heavy() -> None:
    """All in one process; `latency benchmark` is another program's help."""
    code = f"""
import sys
from jdnas.cli import main
for command in {["", *COMMANDS[:-1]]!r}:
    sys.argv = ["jdnas", *command.split(), "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, command
print("HEAVY", sorted(set(sys.modules) & set({HEAVY!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout


def test_help_names_every_command(jdnas) -> None:
    groups = {"": jdnas("--help").out, **{name: jdnas(name, "--help").out for name in ("teacher", "search", "latency", "data")}}
    for command in COMMANDS:
        group, _, name = command.rpartition(" ")
        assert name in groups[group]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "latency benchmark"])
def test_help_shows_an_example(jdnas, command: str) -> None:
    answer = jdnas(*command.split(), "--help")
    assert answer.code == 0 and f"Example: jdnas {command}" in answer.out


def test_no_arguments_show_help(jdnas) -> None:
    assert "optimize" in jdnas().out


def test_every_method_of_compare_is_named() -> None:
    import jdnas
    from jdnas.cli.compare_commands import Methods
    from jdnas.pipeline.baselines import METHODS

    for text in (Methods.__metadata__[0].help, jdnas.compare_methods.__doc__):
        assert set(METHODS) <= set(re.findall(r"[a-z-]+", text))
