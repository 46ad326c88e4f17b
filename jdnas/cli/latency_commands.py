"""Commands of `jdnas latency`: targets, tables, benchmark."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)
TargetName = Annotated[str, typer.Option(help="A target's name or a YAML file.")]


@app.command()
def targets() -> None:
    """List the known targets and what is known of each.

    Example: jdnas latency targets
    """
    from latency.targets import known, load_target

    for name in known():
        target = load_target(name)
        table = "table shipped" if target.shipped_table_path.exists() else "no table"
        table = "table measured here" if target.table_path.exists() and target.table_path != target.shipped_table_path else table
        print(f"{name:18s} {target.device:28s} {target.runtime:14s} {target.precision:5s} {table}")


@app.command()
def measure(
    target: TargetName = "cpu-ort",
    base: Annotated[str, typer.Option(help="Base whose search space is measured.")] = "r18",
    preset: Annotated[str, typer.Option(help="Preset whose sizes and widths are measured.")] = "quick",
    budget: Annotated[float, typer.Option(min=1, help="Minutes.")] = 15.0,
    out: Annotated[Path | None, typer.Option(help="Table file; default: this user's table of the target.")] = None,
) -> None:
    """Measure a latency table on this machine; run it again to go on.

    Example: jdnas latency measure --target cpu-ort --base lite0 --budget 10
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from jdnas.pipeline.tables import measure_for

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("of {task.fields[budget]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("measuring", total=None, budget=f"{budget:g} min")
        path, rows = measure_for(
            target, base, preset, budget * 60, out,
            lambda done, planned, what: bar.update(task, completed=done, total=planned, description=what),
        )  # fmt: skip
    print(f"{rows} rows in {path}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def benchmark(context: typer.Context) -> None:
    """Report FPS of engines; the same as `python latency/benchmark.py`.

    Example: jdnas latency benchmark --engine runs/demo/student/student.onnx --target cpu-ort
    """
    from latency.benchmark import main

    raise typer.Exit(main(context.args))
