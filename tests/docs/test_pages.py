"""What the documentation says is so: commands exist, links lead somewhere, errors are those that are raised, examples run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from jdnas.cli import app
from tests.docs.pages import DOCS, PAGES, Quoted, commands, fences, name_of, sessions
from tests.pipeline.conftest import jdnas

ROOT = DOCS.parent
EXECUTED = ("quickstart.md", "concepts.md", "extending/action.md", "extending/family.md", "extending/runtime.md")
SESSIONS = [(name_of(page), session) for page in PAGES for session in sessions(page)]


@pytest.fixture(scope="module")
def command_line() -> click.Command:
    return typer.main.get_command(app)


def _check(root: click.Command, line: str) -> None:
    """Raise an AssertionError where a command or an option of a line is none."""
    words, command = shlex.split(line)[1:], root
    while words and hasattr(command, "commands") and (words[0] in command.commands or not command.invoke_without_command):
        name = words.pop(0)
        if name.startswith("-"):
            return
        if "|" in name:  # alternatives
            return
        assert name in command.commands, f"`{line}`: there is no command {name!r}; there are {', '.join(command.commands)}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    if command.name == "benchmark":
        return  # the options of another program
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in options, f"`{line}`: {command.name} has no option {word}; it has {', '.join(sorted(options))}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_commands_and_options_exist(command_line: click.Command, page: Path) -> None:
    for line in commands(page):
        _check(command_line, line)


def test_commands_are_found_and_checked(command_line: click.Command, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Text jdnas is.\n\n    jdnas train --base r18 \\\n        --sed 3   # comment\n\n```\n$ jdnas fly\n```\n")
    assert commands(page) == ["jdnas train --base r18 --sed 3", "jdnas fly"]
    for line, message in (("jdnas train --sed 3", "no option --sed"), ("jdnas fly", "no command 'fly'"), ("jdnas latency fly", "'fly'")):
        with pytest.raises(AssertionError, match=message):
            _check(command_line, line)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "#")):
            continue
        place = (page.parent / target.split("#")[0]).resolve()
        assert place.exists(), f"{page.name} links to {target}"
        if page.is_relative_to(DOCS):
            assert place.is_relative_to(DOCS), f"{page.name} links to {target}, which is not part of the site"


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed)) and set(listed) == {name_of(page) for page in PAGES}


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"], cwd=ROOT, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "index.html").read_text()
    assert "concepts/job.svg" in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//(?!(?:squidfunk\.github\.io|www\.mkdocs\.org))[^"]*\.(?:js|css|woff2)', page)


def _pattern(message: str) -> str:
    return ".*".join(map(re.escape, message.split("...")))


@pytest.mark.parametrize(("page", "session"), SESSIONS, ids=[f"{page}-{index}" for index, (page, _) in enumerate(SESSIONS)])
def test_quoted_errors_are_raised(page: str, session: list[Quoted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert session and any(quoted.error for quoted in session), f"a console block of {page} quotes no error"
    for quoted in session:
        if not quoted.command.startswith("jdnas "):
            subprocess.run(["bash", "-c", quoted.command], check=True)
            continue
        code, out, err = jdnas(*shlex.split(quoted.command)[1:])
        if quoted.error is None:
            assert code == 0, err
            continue
        lines = err.strip().splitlines()
        assert code == 2 and len(lines) == 1, f"{quoted.command}: exit code {code}, {err}"
        assert re.fullmatch(f"error: {_pattern(quoted.error)}", lines[0]), f"{quoted.command} says\n{lines[0]}\nand {page}\n{quoted.error}"


def test_errors_are_quoted_where_a_test_runs_them() -> None:
    """A message in a page that is not in a console block would be checked by nothing."""
    for page in PAGES:
        quoted = {f"error: {one.error}" for session in sessions(page) for one in session if one.error}
        for line in page.read_text().splitlines():
            if line.strip().startswith("error: "):
                assert line in quoted, f"{page.name}: put this into a console block, after its command: {line}"


@pytest.mark.parametrize("name", EXECUTED)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of a page run one after the other in one namespace; those with a title are files first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks, namespace = fences(DOCS / name, "python"), dict[str, Any]()
    assert blocks
    families = dict(_families())
    try:
        for attributes, code in blocks:
            if title := re.search(r'title="([^"]+)"', attributes):
                Path(title[1]).write_text(code)
            else:
                exec(compile(code, name, "exec"), namespace)
    finally:
        _families().clear()
        _families().update(families)
        for module in ("my_actions",):
            sys.modules.pop(module, None)


def _families() -> dict[str, Any]:
    from jdnas.families import FAMILIES

    return FAMILIES
