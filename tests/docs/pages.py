"""The pages of the documentation, and what is quoted in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PAGES = tuple(sorted(DOCS.rglob("*.md")))
_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^ {0,12}(?:\$ )?(?:[A-Z]+=\S+ )*((?:\.venv/bin/)?jdnas [a-z].*)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def fences(page: Path, language: str) -> list[tuple[str, str]]:
    """Return attributes and text of every fenced block in a language."""
    return [(found[2].strip(), found[3]) for found in _FENCE.finditer(page.read_text()) if found[1] == language]


def code_lines(text: str) -> str:
    """Return the lines of a page that are code: fenced, or indented after an empty line; joined where a line ends in a backslash."""
    blocks = [found[3] for found in _FENCE.finditer(text)]
    rest = _FENCE.sub("\n", text)
    indented, before = [], ""
    for line in rest.splitlines():
        if line.startswith("    ") and (not before.strip() or before.startswith("    ")) and not re.match(r"\s+([-*]|\d+\.) ", line):
            indented.append(line)
        before = line
    return re.sub(r"[ \t]*\\\n\s*", " ", "\n".join([*indented, *blocks]))


def commands(page: Path) -> list[str]:
    """Return every `jdnas ...` command of a page, without comments."""
    found = [match[1].removeprefix(".venv/bin/") for match in _COMMAND.finditer(code_lines(page.read_text()))]
    return [re.split(r"\s+#|\s+\.\.\.$|\s+\(", command)[0].strip() for command in found]


@dataclass(frozen=True)
class Quoted:
    """A command in a console block, and the error that it is said to end in; None where it ends well."""

    command: str
    error: str | None


def sessions(page: Path) -> Iterator[list[Quoted]]:
    """Yield the commands of each console block with what follows them."""
    for _, text in fences(page, "console"):
        found: list[Quoted] = []
        for line in text.splitlines():
            if line.startswith("$ "):
                found.append(Quoted(line[2:], None))
            elif line.startswith("error: "):
                found[-1] = Quoted(found[-1].command, line.removeprefix("error: "))
        yield found
