"""Commands of `jdnas latency`: targets, tables, benchmark."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)
TargetName = Annotated[str, typer.Option(help="A target's name or a YAML file.")]


@app.command()
def targets(
    files: Annotated[
        list[Path] | None, typer.Argument(help="YAML files of targets of your own, listed beside those that came along.")
    ] = None,
) -> None:
    """List the known targets, what is known of each, and which this machine is.

    Example: jdnas latency targets my_board.yaml
    """
    from rich.console import Console

    from jdnas.cli.tables import targets_table

    Console().print(targets_table(files or []))


@app.command("import-conv-library")
def import_conv_library(
    file: Annotated[Path, typer.Argument(help="Rows '{kind,batch,in_c,in_h,in_w,out_c,kernel,stride,add} ms'; .xz and .gz are read too.")],
    target: TargetName = "v100-trt",
    source: Annotated[str, typer.Option(help="Who measured it and where it was published; kept with every figure.")] = "not stated",
    licence: Annotated[str, typer.Option(help="Licence of the file.")] = "not stated",
    coefficients_only: Annotated[
        bool, typer.Option("--coefficients-only", help="Keep the fitted formula alone, which is less exact and may be passed on.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File to write; default: this user's prior of the target.")] = None,
) -> None:  # fmt: skip
    """Make a third-party prior of a target from a published table of single convolutions.

    Example: jdnas latency import-conv-library conv_data.out.fp16.xz --target v100-trt --licence Apache-2.0
    """
    from latency.conv_library import read_conv_library
    from latency.prior_fit import fit_prior
    from latency.targets import load_target

    where = load_target(target)
    library = read_conv_library(file, batch=where.batch)
    prior = fit_prior(library, where, source=source, licence=licence, keep_rows=not coefficients_only)
    path = out or where.prior_path
    prior.save(path)
    left = f"{library.failed} failed ones (-1) and {library.other_batches} of other batches left out"
    print(f"{len(library.rows)} rows of batch {library.batch} ({left}); on rows not fitted to: mean error {100 * prior.error.mape:.1f} %, "
          f"median {100 * prior.error.median:.1f} %; {path}")  # fmt: skip


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
    """Report FPS of engines and PyTorch detectors; the same as `python latency/benchmark.py` (`-- --help` lists its options).

    Example: jdnas latency benchmark --engine runs/demo/student/student.onnx --target cpu-ort
    """
    from latency.benchmark import main

    raise typer.Exit(main(context.args))
