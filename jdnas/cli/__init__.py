"""The command line. Importing it is quick: commands import what they need when they run."""

import errno
import os
import sys

import typer

import jdnas.cli.compare_commands as compare_commands
import jdnas.cli.data_commands as data_commands
import jdnas.cli.latency_commands as latency_commands
import jdnas.cli.machine_commands as machine_commands
import jdnas.cli.model_commands as model_commands
import jdnas.cli.reproduce_commands as reproduce_commands
import jdnas.cli.run_commands as run_commands
import jdnas.cli.serve_commands as serve_commands
import jdnas.cli.student_commands as student_commands
from jdnas.errors import InputError, JdnasError

app = typer.Typer(
    name="jdnas", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Turn a Faster R-CNN FPN detector into a smaller, faster and more accurate one for the device that serves it.",
)  # fmt: skip
run_commands.register(app)
compare_commands.register(app)
model_commands.register(app)
student_commands.register(app)
reproduce_commands.register(app)
serve_commands.register(app)
data_commands.register(app)
machine_commands.register(app)
app.add_typer(latency_commands.app, name="latency", help="Targets, latency tables and FPS reports.")


def main() -> None:
    """Run the command line; errors that jdnas knows are one line on stderr and exit with their code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads halve the speed on cores that others use too
    try:
        app()
    except JdnasError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:  # of files that the user named; others are faults of the program, and show where
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        place = f": {error.filename}" if error.filename is not None else ""
        print(f"error: {error.strerror}{place}", file=sys.stderr)
        sys.exit(1 if error.errno == errno.ENOSPC else InputError.exit_code)
