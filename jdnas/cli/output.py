"""Where commands write: people's lines and progress, or JSON for programs."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress and no tables; errors, and with --json the result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout; progress goes to stderr.")]
_LOG_WIDTH = 140


@dataclass(frozen=True, slots=True)
class Output:
    """How one call of a command speaks: `quiet` without progress and tables, `as_json` with the result alone on stdout."""

    quiet: bool = False
    as_json: bool = False

    @property
    def console(self) -> "Console":
        """The console of progress and messages: stderr where stdout belongs to the JSON; wide enough for tables in a log."""
        from rich.console import Console

        console = Console(stderr=self.as_json)
        return console if console.is_terminal else Console(stderr=self.as_json, width=max(console.width, _LOG_WIDTH))

    def result(self, data: Any, *shown: "RenderableType") -> None:
        """Print a command's result: plain `data` as JSON, or for people what is `shown`; strings are printed as they are."""
        if self.as_json:
            print(json.dumps(data, indent=1))
        elif not self.quiet:
            for one in shown:
                if isinstance(one, str):
                    print(one)
                else:
                    self.console.print(one)
