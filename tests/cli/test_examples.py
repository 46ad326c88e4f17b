"""Every command has an example in its help, which the command line takes."""

import inspect
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

import jdnas
from jdnas.cli import app

LINE = re.compile(r"^\s*Example: (jdnas .*)$", re.MULTILINE)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every command with what calls it; a group that runs by itself counts as one too."""
    if not hasattr(group, "commands"):
        yield " ".join(path), group
        return
    if group.invoke_without_command:
        yield " ".join(path), group
    for name, command in group.commands.items():
        yield from commands(command, (*path, name))


ALL = dict(commands(get_command(app)))


def examples(command: Any) -> list[list[str]]:
    return [shlex.split(line) for line in LINE.findall(command.help or command.callback.__doc__ or "")]


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Parse a command line as `jdnas` would, without doing it; return the command and its parameters."""
    command, context, path = get_command(app), None, []
    rest = words[1:]
    while True:
        context = command.make_context(path[-1] if path else "jdnas", rest, parent=context)
        left = [*context._protected_args, *context.args] if hasattr(command, "commands") else []
        if not left:
            return " ".join(path), context.params
        name, command, rest = command.resolve_command(context, left)
        path.append(name)


def test_there_are_commands() -> None:
    assert {"optimize", "search", "search status", "data check", "latency benchmark", "doctor"} <= set(ALL)


@pytest.mark.parametrize("name", list(ALL))
def test_every_command_has_an_example_that_parses(name: str) -> None:
    found = examples(ALL[name])
    assert found, f"jdnas {name} has no example in its help"
    for words in found:
        path, _ = parsed(words)
        assert path == name, words


OTHER_PROGRAMS = {"latency benchmark"}  # the same as python latency/benchmark.py, which is a program of its own


@pytest.mark.parametrize("name", sorted(set(ALL) - OTHER_PROGRAMS))
def test_every_command_calls_a_function_of_the_api(name: str) -> None:
    source = inspect.getsource(inspect.unwrap(ALL[name].callback))
    called = set(re.findall(r"jdnas\.(\w+)\(", source))
    for line in re.findall(r"from jdnas\.api(?:\.\w+)? import ([\w, ]+)", source):
        called |= {part.split(" as ")[0].strip() for part in line.split(",")}
    assert called & set(jdnas.__all__), f"jdnas {name} does something that Python cannot ask for"


def test_wrong_examples_would_be_noticed() -> None:
    for words in (
        ["jdnas", "optimise"],
        ["jdnas", "optimize", "--bse", "r18"],
        ["jdnas", "predict", "m.onnx"],
        ["jdnas", "data", "chek", "x"],
    ):
        with pytest.raises(Exception, match=r"(?i)no such|missing"):
            parsed(words)
