"""Commands that work on a run folder: optimize and each of its steps."""

import errno
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from jdnas.cli.goals import Budget, MaxLatency, MinAp, Patience, PolishEpochs, StudyUrl, Trials
from jdnas.cli.output import AsJson, Output, Quiet
from jdnas.cli.placement_options import CpusPerTrial, Executor, GpusPerTrial, RayAddress, Storage, Workers, placement_from
from jdnas.errors import GoalMissedError
from jdnas.passwords import without_passwords

Base = Annotated[str | None, typer.Option(help="Base detector: r18, r34, r50, r101, r152, lite0 (`jdnas bases` describes them).")]
TargetName = Annotated[str | None, typer.Option(help="Target device and runtime, e.g. cpu-ort (`jdnas latency targets`), or a YAML file.")]
Data = Annotated[str | None, typer.Option(help="Folder in COCO (images/, annotations/train.json), YOLO or Pascal VOC layout, or `shapes`.")]
Preset = Annotated[
    str | None, typer.Option(help="Settings to start from: a name in configs/ or a YAML file; default: quick, or those of the resumed run.")
]
RunDir = Annotated[Path, typer.Option(help="Where everything is kept; one folder per run.")]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Trained base, which decides on the architecture: a .safetensors file of jdnas, or a checkpoint of torchvision, detectron2, "
        "mmdetection or timm."
    ),
]
Trained = Annotated[bool, typer.Option("--trained", help="Take --weights as the base as they are; they know the data's classes.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Override = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting: KEY=VALUE, e.g. search.trials=20 (`jdnas config` lists them).")
]
Schedule = Annotated[str | None, typer.Option(help="Training schedule by name: 1x, 2x, 1x+ms or 2x+ms; default: that of the preset.")]
Devices = Annotated[int, typer.Option(help="Devices of this machine that train together; more than 1 needs the extra `distributed`.")]
Nodes = Annotated[int, typer.Option(help="Machines that train together; start the same command on each.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --run-dir (or begin it if it is not there).")]


def overrides(pairs: list[str] | None, trained: bool = False) -> dict[str, Any]:
    """Return what `--set` options, and `--trained`, say as nested settings."""
    from jdnas.config import parse_overrides

    return parse_overrides([*(pairs or []), *(["train_base=false"] if trained else [])])


@contextmanager
def resumable(command: str | None = None) -> Iterator[None]:
    """Let an interruption or a full disk say that `command`, by default this one with --resume, goes on, and exit with 130 or 1."""
    command = command or _resume_command()
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nstopped; nothing that was finished is lost. Continue with: {command}", file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        place = "" if error.filename is None else f" for {error.filename}"
        print(f"error: no space left on the device{place}; nothing that was finished is lost. "
              f"Make room and continue with: {command}", file=sys.stderr)  # fmt: skip
        raise typer.Exit(1) from None


def this_command() -> str:
    """Return the command that is running, as one types it."""
    return without_passwords(shlex.join(["jdnas", *sys.argv[1:]]))


def _resume_command() -> str:
    return this_command() if "--resume" in sys.argv else f"{this_command()} --resume"


def optimize(
    base: Base = None, target: TargetName = None, data: Data = None, preset: Preset = None, run_dir: RunDir = Path("runs/optimize"),
    weights: Weights = None, trained: Trained = False, trials: Trials = None, budget: Budget = None, patience: Patience = None,
    max_latency_ms: MaxLatency = None, min_ap: MinAp = None, polish_epochs: PolishEpochs = None, study_url: StudyUrl = None,
    seed: Seed = None, device: Device = None, executor: Executor = "local", ray_address: RayAddress = None, workers: Workers = None,
    gpus_per_trial: GpusPerTrial = None, cpus_per_trial: CpusPerTrial = None, storage: Storage = None, override: Override = None,
    resume: Resume = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print steps, images, estimated time and memory, and do nothing.")] = False,
    quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Do the whole job: train the base and the teacher pool, search, export, check, benchmark, report.

    Example: jdnas optimize --base r18 --target cpu-ort --data shapes --preset quick --run-dir runs/demo
    """
    import jdnas
    from jdnas.cli.tables import plan_table, precision_table, summary_table

    output, settings = Output(quiet, as_json), overrides(override, trained)
    placement = placement_from(executor, ray_address, workers, gpus_per_trial, cpus_per_trial, storage)
    if plan:
        found = jdnas.plan(
            base=base, target=target, data=data, preset=preset, weights=weights, trials=trials, max_latency_ms=max_latency_ms,
            min_ap=min_ap, polish_epochs=polish_epochs, seed=seed, device=device, settings=settings,
            resumed=run_dir if resume else None, quiet=quiet, console=output.console,
        )  # fmt: skip
        output.result(found.to_dict(), plan_table(found), *found.notes)
        return
    with resumable():
        run = jdnas.optimize(
            base=base, target=target, data=data, preset=preset, run_dir=run_dir, weights=weights, trials=trials,
            budget=budget, patience=patience, max_latency_ms=max_latency_ms, min_ap=min_ap, polish_epochs=polish_epochs,
            study_url=study_url, seed=seed, device=device, settings=settings, resume=resume, quiet=quiet, console=output.console,
            command=this_command(), placement=placement,
        )  # fmt: skip
    if as_json or not quiet:
        output.result(run.summary, summary_table(run.summary), precision_table(run.summary["student"]["precisions"]))
    raise_where_missed(run.summary["search"])


def train(
    base: Base = None, data: Data = None, preset: Preset = None, run_dir: RunDir = Path("runs/train"), weights: Weights = None,
    schedule: Schedule = None, devices: Devices = 1, nodes: Nodes = 1, seed: Seed = None, device: Device = None,
    override: Override = None, resume: Resume = False, quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train and evaluate the base detector alone, on one device or several.

    Example: jdnas train --base lite0 --data my_data --schedule 2x+ms --devices 8
    """
    import jdnas

    output = Output(quiet, as_json)
    with resumable():
        run = jdnas.train(
            base=base, data=data, preset=preset, run_dir=run_dir, weights=weights, schedule=schedule, devices=devices, nodes=nodes,
            seed=seed, device=device, settings=overrides(override), resume=resume, quiet=quiet, console=output.console,
        )  # fmt: skip
    _say_status(output, run)


def raise_where_missed(search: dict[str, Any]) -> None:
    """Raise a GoalMissedError that says what came closest, where a search's record has a goal that nothing meets."""
    goal = search.get("goal")
    if goal is not None and not goal["met"]:
        raise GoalMissedError(goal["sentence"])


def _say_status(output: Output, run: Any, study_url: str | None = None) -> None:
    """Print how far a run is, where JSON was asked for; people have read it on the way."""
    from jdnas.training.distributed import is_first_process

    if output.as_json and is_first_process():
        output.result(run.status(study_url=study_url))


def teacher_train(
    base: Base = None, data: Data = None, preset: Preset = None, run_dir: RunDir = Path("runs/teacher"), weights: Weights = None,
    trained: Trained = False, devices: Devices = 1, nodes: Nodes = 1, seed: Seed = None, device: Device = None, override: Override = None,
    resume: Resume = False, quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train the elastic teacher pool (and the base it grows from, if it is not there), on one device or several.

    Example: jdnas teacher train --base r18 --data shapes --run-dir runs/pool
    """
    import jdnas

    output = Output(quiet, as_json)
    with resumable():
        run = jdnas.train_pool(
            base=base, data=data, preset=preset, run_dir=run_dir, weights=weights, devices=devices, nodes=nodes, seed=seed, device=device,
            settings=overrides(override, trained), resume=resume, quiet=quiet, console=output.console,
        )  # fmt: skip
    _say_status(output, run)


def teacher_space(
    base: Base = None, preset: Preset = None, samples: Annotated[int, typer.Option(min=0, help="Subnets to draw.")] = 5,
    seed: Seed = None, override: Override = None,
) -> None:  # fmt: skip
    """Print the size of the pool's subnet space and some subnets of it.

    Example: jdnas teacher space --base r50 --samples 3
    """
    import jdnas
    from jdnas.cli.tables import space_table

    space, config = jdnas.pool_space(base=base, preset=preset, settings=overrides(override))
    Output().result(None, space_table(space, len(config.data_settings.long_sides), samples, seed or 0))


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folder with a summary.json; several are compared on one page.")],
    out: Annotated[Path, typer.Option(help="The page that compares several runs.")] = Path("comparison.html"),
) -> None:
    """Write report.html of a finished run anew, or compare several runs on one page.

    Example: jdnas report runs/demo

    Example: jdnas report runs/seed0 runs/seed1 runs/seed2 --out seeds.html
    """
    import jdnas

    print(jdnas.write_report(runs[0], *runs[1:], out=out))


def show_config(preset: Preset = None, override: Override = None) -> None:
    """Print all settings of a preset with their values, as YAML.

    Example: jdnas config --preset quick --set search.trials=20
    """
    import jdnas
    from jdnas.config import dump

    print(dump(jdnas.resolve_settings(preset=preset, settings=overrides(override))), end="")


def register(app: typer.Typer) -> None:
    """Add the commands of this file, and those of `distill_commands` and `search_commands`, which use its options, to the command line."""
    from jdnas.cli.distill_commands import distill, teacher_eval
    from jdnas.cli.search_commands import search

    app.command()(optimize)
    app.command()(train)
    teacher = typer.Typer(no_args_is_help=True, help="The elastic teacher pool.")
    teacher.command("train")(teacher_train)
    teacher.command("space")(teacher_space)
    teacher.command("eval")(teacher_eval)
    app.add_typer(teacher, name="teacher")
    app.add_typer(search, name="search")
    app.command()(distill)
    app.command()(report)
    app.command("config")(show_config)
