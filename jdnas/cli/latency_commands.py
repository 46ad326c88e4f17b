"""Commands of `jdnas latency`: targets, tables, benchmark."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from jdnas.cli.output import AsJson, Output, Quiet
from jdnas.cli.run_commands import resumable, this_command
from jdnas.durations import seconds_from_text
from jdnas.errors import ConfigError

app = typer.Typer(no_args_is_help=True)
TargetName = Annotated[str, typer.Option(help="A target's name or a YAML file.")]
Bases = Annotated[
    list[str] | None, typer.Option("--base", help="Base whose search space is meant; may be given several times [default: r18].")
]
PresetName = Annotated[str, typer.Option("--preset", help="Preset whose sizes and widths are meant.")]
Sizes = Annotated[
    list[str] | None, typer.Option("--size", help="Canvas as WIDTHxHEIGHT; may be given several times [default: the preset's].")
]
EnginesDir = Annotated[
    Path | None,
    typer.Option("--engines-dir", help="Keep exported engines here, and use those that are there (see: jdnas latency prepare)."),
]


def _say_disturbed(provenance: dict[str, Any]) -> None:
    for what in provenance.get("disturbances", []):
        print(f"disturbed: {what}", file=sys.stderr)


@app.command()
def targets(
    files: Annotated[
        list[Path] | None, typer.Argument(help="YAML files of targets of your own, listed beside those that came along.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the known targets, what is known of each, and which this machine is.

    Example: jdnas latency targets my_board.yaml
    """
    import jdnas
    from jdnas.cli.tables import targets_table

    rows = jdnas.targets(files or [])
    Output(as_json=as_json).result(rows, targets_table(rows))


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
    import jdnas

    path, prior, read = jdnas.import_conv_library(
        file, target, source=source, licence=licence, coefficients_only=coefficients_only, out=out
    )  # fmt: skip
    left = f"{read['failed']} failed ones (-1) and {read['other_batches']} of other batches left out"
    print(f"{read['rows']} rows of batch {read['batch']} ({left}); on rows not fitted to: mean error {100 * prior.error.mape:.1f} %, "
          f"median {100 * prior.error.median:.1f} %; {path}")  # fmt: skip


@app.command()
def prepare(
    engines_dir: Annotated[Path, typer.Argument(help="Folder for the exported engines.")],
    target: TargetName = "cpu-ort", base: Bases = None, preset: PresetName = "quick", size: Sizes = None,
    engines: Annotated[int, typer.Option(min=0, help="As for measure.")] = 24,
    count: Annotated[int, typer.Option(min=3, help="As for validate.")] = 50,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Export the engines that measure and validate will need, and measure nothing: this part needs no quiet machine.

    Example: jdnas latency prepare engines/ --base r18 --base lite0 --jobs 2
    """
    import jdnas

    folder = jdnas.prepare_latency(
        engines_dir, target, bases=base or ["r18"], preset=preset, sizes=size or [], engines=engines, count=count, jobs=jobs, quiet=quiet,
        console=Output(quiet).console,
    )  # fmt: skip
    print(f"engines in {folder}")


@app.command()
def measure(
    target: TargetName = "cpu-ort", base: Bases = None, preset: PresetName = "quick", size: Sizes = None, engines_dir: EnginesDir = None,
    budget: Annotated[str, typer.Option(help="Time to spend, such as 30m, 1h30m or 90s.")] = "15m",
    engines: Annotated[int, typer.Option(min=0, help="Whole engines that correct the sum of blocks.")] = 24,
    out: Annotated[Path | None, typer.Option(help="Table file; default: this user's table of the target.")] = None,
    quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure a latency table for the search spaces of some bases on this machine; run it again to go on.

    Example: jdnas latency measure --target cpu-ort --base r18 --base lite0 --budget 20m
    """
    import jdnas

    output = Output(quiet, as_json)
    with resumable(this_command()):
        path, table = jdnas.measure_latency(
            target, bases=base or ["r18"], preset=preset, sizes=size or [], engines_dir=engines_dir, seconds=seconds_from_text(budget),
            engines=engines, out=out, quiet=quiet, console=output.console,
        )  # fmt: skip
    _say_disturbed(table.provenance)
    facts = {"table": str(path), "blocks": len(table.blocks), "engines": len(table.engines), "provenance": table.provenance}
    output.result(facts, f"{len(table.blocks)} blocks and {len(table.engines)} engines in {path}")


@app.command()
def validate(
    target: TargetName = "cpu-ort", base: Bases = None, preset: PresetName = "quick", size: Sizes = None, engines_dir: EnginesDir = None,
    count: Annotated[int, typer.Option(min=3, help="Random students to measure whole.")] = 50,
    budget: Annotated[str, typer.Option(help="Time to spend, such as 10m.")] = "10m",
    rounds: Annotated[int, typer.Option(min=2, help="Measurements of each engine, in turns; more of them go on from earlier ones.")] = 4,
    table: Annotated[Path | None, typer.Option(help="Table to validate; default: the one that a search would use.")] = None,
    out: Annotated[Path, typer.Option(help="JSON file for the result; a scatter plot goes beside it as .svg.")] = Path("validation.json"),
    quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Hold predictions against random students measured whole, none of which the table was fitted to.

    Example: jdnas latency validate --target cpu-ort --base r18 --base lite0 --count 50
    """
    import jdnas
    from jdnas.cli.tables import validation_table
    from jdnas.report.scatter import write_scatter

    if out.suffix != ".json":
        raise ConfigError(f"--out must end in .json, got {out}; the plot goes beside it")
    output = Output(quiet, as_json)
    with resumable(this_command()):
        result = jdnas.validate_latency(
            target, bases=base or ["r18"], preset=preset, sizes=size or [], engines_dir=engines_dir, count=count,
            seconds=seconds_from_text(budget), rounds=rounds, table=table, out=out, quiet=quiet, console=output.console,
        )  # fmt: skip
    _say_disturbed(result.provenance)
    output.result(result.to_dict(), validation_table(result), f"{out}, {write_scatter(result.to_dict(), out.with_suffix('.svg'))}")


@app.command()
def adapt(
    source: Annotated[Path, typer.Argument(help="Table of another device with the same runtime, precision and batch.")],
    target: TargetName = "cpu-ort", base: Bases = None, preset: PresetName = "quick", size: Sizes = None, engines_dir: EnginesDir = None,
    engines: Annotated[int, typer.Option(min=1, max=20, help="Whole engines to measure on this device.")] = 12,
    budget: Annotated[str, typer.Option(help="Time to spend, such as 5m.")] = "10m",
    out: Annotated[Path | None, typer.Option(help="Table file; default: this user's table of the target.")] = None,
    quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Make a table of this device from another device's, with at most 20 engines measured here.

    Example: jdnas latency adapt other_machine.json --target my_board.yaml --engines 12
    """
    import jdnas
    from latency.predictor import Predictor
    from latency.sources import TableSource

    output = Output(quiet, as_json)
    with resumable(this_command()):
        path, table = jdnas.adapt_latency(
            source, target, bases=base or ["r18"], preset=preset, sizes=size or [], engines_dir=engines_dir, engines=engines,
            seconds=seconds_from_text(budget), out=out, quiet=quiet, console=output.console,
        )  # fmt: skip
    made = TableSource(Predictor(table))
    error = made.describe()["error_on_engines_left_out"]
    facts = {"table": str(path), "blocks": len(table.blocks), "engines": len(table.engines), "error_on_engines_left_out": error}
    said = f"{len(table.blocks)} blocks of {source}, {len(table.engines)} engines measured here"
    output.result(facts, f"{said}; {made.error_words()}; {path}")


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="A base's name, or a detector's .json file.")],
    size: Annotated[str, typer.Option(help="Input as WIDTHxHEIGHT.")],
    target: TargetName = "cpu-ort",
    rows: Annotated[int, typer.Option(min=0, help="Heaviest blocks to show, with the rows that their answers rest on.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Predict the latency of a detector on a target, with what the answer rests on and how far it may be off.

    Example: jdnas latency predict r50 --size 1333x800 --target v100-trt
    """
    import jdnas
    from jdnas.cli.tables import prediction_table

    found = jdnas.predict_latency(model, size, target)
    Output(as_json=as_json).result(found, prediction_table(found, rows))


@app.command()
def repeat(
    engines: Annotated[list[Path], typer.Argument(help="Exported detectors.")], target: TargetName = "cpu-ort",
    times: Annotated[int, typer.Option(min=2, help="Fresh processes for each engine.")] = 10,
    seconds: Annotated[float, typer.Option(min=0.01, help="Time for each process.")] = 2.0,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure engines again and again in fresh processes, in turns, and print how far their medians spread.

    Example: jdnas latency repeat runs/demo/student/student.onnx --times 10
    """
    import jdnas

    results = jdnas.repeat_latency(engines, target, times=times, seconds=seconds)
    lines = [
        f"{one.engine}: spread of {times} medians {100 * one.spread:.1f} %; ms: {', '.join(f'{ms:.2f}' for ms in one.medians_ms)}"
        for one in results
    ]
    Output(as_json=as_json).result([asdict(one) | {"spread": one.spread} for one in results], *lines)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def benchmark(context: typer.Context) -> None:
    """Report FPS of engines and PyTorch detectors; the same as `python latency/benchmark.py` (`-- --help` lists its options).

    Example: jdnas latency benchmark --engine runs/demo/student/student.onnx --target cpu-ort
    """
    from latency.benchmark import main

    raise typer.Exit(main(context.args))
