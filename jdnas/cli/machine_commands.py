"""The command that says what this machine can do."""

from pathlib import Path
from typing import Annotated

import typer

from jdnas.cli.output import AsJson, Output


def doctor(
    run_dir: Annotated[Path, typer.Option(help="Where runs would be kept; the free space of its disk is told.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Say what this machine can do, what is missing for the rest, and the command that installs it.

    Devices, memory, threads, runtimes and their versions, compilers for AOTInductor, extras, and which targets this machine is.

    Example: jdnas doctor --json
    """
    from jdnas.api import doctor as examine
    from jdnas.cli.doctor_tables import doctor_tables

    found = examine(run_dir)
    Output(as_json=as_json).result(found, *doctor_tables(found))


def register(root: typer.Typer) -> None:
    """Add the command of this file to the command line."""
    root.command()(doctor)
