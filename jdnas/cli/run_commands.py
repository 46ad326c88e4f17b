"""Commands that work on a run folder: optimize and each of its steps."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from jdnas.config import RunConfig

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
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Override = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting: KEY=VALUE, e.g. search.trials=20 (`jdnas config` lists them).")
]
Trials = Annotated[int | None, typer.Option(min=0, help="Candidates to search beyond the base.")]
MaxLatency = Annotated[float | None, typer.Option(min=0, help="Look for the best AP within this predicted latency in ms, not for H.")]
MinAp = Annotated[float | None, typer.Option(min=0, max=1, help="Look for the cheapest detector with at least this AP, not for H.")]
Schedule = Annotated[str | None, typer.Option(help="Training schedule by name: 1x, 2x, 1x+ms or 2x+ms; default: that of the preset.")]
Devices = Annotated[int, typer.Option(help="Devices of this machine that train together; more than 1 needs the extra `distributed`.")]
Nodes = Annotated[int, typer.Option(help="Machines that train together; start the same command on each.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --run-dir (or begin it if it is not there).")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


def _config(
    preset: str | None, overrides: list[str] | None, resumed: Path | None = None, schedule: str | None = None, **given: Any
) -> "RunConfig":
    """Resolve the settings; without a preset, those of the run in the folder `resumed` come first, if there is one."""
    from jdnas.config import DEFAULT_PRESET, merge, parse_overrides, resolve, resolve_kept, scheduled

    chosen = parse_overrides(overrides or []) | {key: value for key, value in given.items() if value is not None}
    chosen = merge(scheduled(schedule), chosen)
    if preset is None and resumed is not None and (resumed / "config.yaml").is_file():
        return resolve_kept(resumed / "config.yaml", chosen)
    return resolve(preset or DEFAULT_PRESET, chosen)


def _goals(override: list[str] | None, trials: int | None, max_latency_ms: float | None, min_ap: float | None) -> list[str]:
    """Add the options of the search to the overrides; they are short forms of settings."""
    goals = {"search.trials": trials, "search.max_cost": max_latency_ms, "search.min_ap": min_ap}
    latency = [] if max_latency_ms is None else ["cost=latency"]
    return [*(override or []), *latency, *(f"{key}={value}" for key, value in goals.items() if value is not None)]


def _run(run_dir: Path, work: Callable[["Console"], None]) -> None:
    """Do the work of a command; an interruption says how to continue and exits with 130."""
    from rich.console import Console

    try:
        work(Console())
    except KeyboardInterrupt:
        print(f"\nstopped; nothing that was finished is lost. Continue with: {_resume_command(run_dir)}", file=sys.stderr)
        raise typer.Exit(130) from None


def _resumed(run_dir: Path, resume: bool) -> Path | None:
    return run_dir if resume else None


def _command() -> str:
    return shlex.join(["jdnas", *sys.argv[1:]])


def _resume_command(run_dir: Path) -> str:
    return _command() if "--resume" in sys.argv else f"{_command()} --resume"


def optimize(
    base: Base = None, target: TargetName = None, data: Data = None, preset: Preset = None, run_dir: RunDir = Path("runs/optimize"),
    weights: Weights = None, trials: Trials = None, max_latency_ms: MaxLatency = None, min_ap: MinAp = None, seed: Seed = None,
    device: Device = None, override: Override = None, resume: Resume = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Do the whole job: train the base and the teacher pool, search, export, check, benchmark, report.

    Example: jdnas optimize --base r18 --target cpu-ort --data shapes --preset quick --run-dir runs/demo
    """
    settings = _goals(override, trials, max_latency_ms, min_ap)
    config = _config(
        preset, settings, _resumed(run_dir, resume), base=base, target=target, data=data, weights=weights, seed=seed, device=device
    )

    def work(console: "Console") -> None:
        from jdnas.cli.tables import summary_table
        from jdnas.pipeline.optimize import optimize as run

        summary = run(config, run_dir, resume=resume, console=console, command=_command(), quiet=quiet)
        if not quiet:
            console.print(summary_table(summary))

    _run(run_dir, work)


def _until(step: str, config: "RunConfig", run_dir: Path, resume: bool, quiet: bool, devices: int = 1, nodes: int = 1) -> None:
    def work(console: "Console") -> None:
        from jdnas.pipeline.optimize import run_until

        run_until(step, config, run_dir, resume=resume, console=console, quiet=quiet, devices=devices, nodes=nodes)

    _run(run_dir, work)


def train(
    base: Base = None, data: Data = None, preset: Preset = None, run_dir: RunDir = Path("runs/train"), weights: Weights = None,
    schedule: Schedule = None, devices: Devices = 1, nodes: Nodes = 1, seed: Seed = None, device: Device = None,
    override: Override = None, resume: Resume = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train and evaluate the base detector alone, on one device or several.

    Example: jdnas train --base lite0 --data my_data --schedule 2x+ms --devices 8
    """
    config = _config(preset, override, _resumed(run_dir, resume), schedule, base=base, data=data, weights=weights, seed=seed, device=device)
    _until("base", config, run_dir, resume, quiet, devices, nodes)


def teacher_train(
    base: Base = None, data: Data = None, preset: Preset = None, run_dir: RunDir = Path("runs/teacher"), weights: Weights = None,
    devices: Devices = 1, nodes: Nodes = 1, seed: Seed = None, device: Device = None, override: Override = None, resume: Resume = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train the elastic teacher pool (and the base it grows from, if it is not there), on one device or several.

    Example: jdnas teacher train --base r18 --data shapes --run-dir runs/pool
    """
    config = _config(preset, override, _resumed(run_dir, resume), base=base, data=data, weights=weights, seed=seed, device=device)
    _until("pool", config, run_dir, resume, quiet, devices, nodes)


def teacher_space(
    base: Base = None, preset: Preset = None, samples: Annotated[int, typer.Option(min=0, help="Subnets to draw.")] = 5,
    seed: Seed = None, override: Override = None,
) -> None:  # fmt: skip
    """Print the size of the pool's subnet space and some subnets of it.

    Example: jdnas teacher space --base r50 --samples 3
    """
    from rich.console import Console

    from jdnas.cli.tables import space_table

    Console().print(space_table(_config(preset, override, base=base), samples, seed or 0))


def search_run(
    context: typer.Context, base: Base = None, target: TargetName = None, data: Data = None, preset: Preset = None,
    run_dir: RunDir = Path("runs/search"), weights: Weights = None, trials: Trials = None, max_latency_ms: MaxLatency = None,
    min_ap: MinAp = None, seed: Seed = None, device: Device = None, override: Override = None, resume: Resume = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Search student-teacher pairs (training base and pool first, if they are not there).

    Example: jdnas search --base r18 --target cpu-ort --data shapes --run-dir runs/demo --resume
    """
    if context.invoked_subcommand is not None:
        return
    settings = _goals(override, trials, max_latency_ms, min_ap)
    config = _config(
        preset, settings, _resumed(run_dir, resume), base=base, target=target, data=data, weights=weights, seed=seed, device=device
    )
    _until("search", config, run_dir, resume, quiet)


def search_status(run: Annotated[Path, typer.Argument(help="Run folder.")], top: Annotated[int, typer.Option(min=1)] = 5) -> None:
    """Print the best pairs of a running or finished search.

    Example: jdnas search status runs/demo
    """
    from rich.console import Console

    from jdnas.cli.tables import status_table

    Console().print(status_table(run, top))


def report(run: Annotated[Path, typer.Argument(help="Run folder with a summary.json.")]) -> None:
    """Write report.html of a finished run anew.

    Example: jdnas report runs/demo
    """
    from jdnas.report.build import write_report

    print(write_report(run))


def show_config(preset: Preset = None, override: Override = None) -> None:
    """Print all settings of a preset with their values, as YAML.

    Example: jdnas config --preset quick --set search.trials=20
    """
    from jdnas.config import dump

    print(dump(_config(preset, override)), end="")


def register(app: typer.Typer) -> None:
    """Add the commands of this file, and those of `distill_commands`, which uses its options, to the command line."""
    from jdnas.cli.distill_commands import distill, teacher_eval

    app.command()(optimize)
    app.command()(train)
    teacher = typer.Typer(no_args_is_help=True, help="The elastic teacher pool.")
    teacher.command("train")(teacher_train)
    teacher.command("space")(teacher_space)
    teacher.command("eval")(teacher_eval)
    app.add_typer(teacher, name="teacher")
    search = typer.Typer(invoke_without_command=True)
    search.callback()(search_run)
    search.command("status")(search_status)
    app.add_typer(search, name="search")
    app.command()(distill)
    app.command()(report)
    app.command("config")(show_config)
