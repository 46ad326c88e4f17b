"""Commands of the search."""

from pathlib import Path
from typing import Annotated

import typer

from jdnas.cli.goals import Budget, MaxLatency, MinAp, Patience, StudyUrl, Trials
from jdnas.cli.output import AsJson, Output, Quiet
from jdnas.cli.placement_options import CpusPerTrial, Executor, GpusPerTrial, RayAddress, Storage, Workers, placement_from
from jdnas.cli.run_commands import (
    Base,
    Data,
    Device,
    Override,
    Preset,
    Resume,
    RunDir,
    Seed,
    TargetName,
    Trained,
    Weights,
    _say_status,
    overrides,
    raise_where_missed,
    resumable,
)

search = typer.Typer(invoke_without_command=True)


@search.callback()
def search_run(
    context: typer.Context, base: Base = None, target: TargetName = None, data: Data = None, preset: Preset = None,
    run_dir: RunDir = Path("runs/search"), weights: Weights = None, trained: Trained = False, trials: Trials = None,
    budget: Budget = None, patience: Patience = None, max_latency_ms: MaxLatency = None, min_ap: MinAp = None, study_url: StudyUrl = None,
    seed: Seed = None, device: Device = None, executor: Executor = "local", ray_address: RayAddress = None, workers: Workers = None,
    gpus_per_trial: GpusPerTrial = None, cpus_per_trial: CpusPerTrial = None, storage: Storage = None, override: Override = None,
    resume: Resume = False, quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Search student-teacher pairs (training base and pool first, if they are not there).

    Example: jdnas search --base r18 --target cpu-ort --data shapes --run-dir runs/demo --resume
    """
    if context.invoked_subcommand is not None:
        return
    import jdnas

    output = Output(quiet, as_json)
    placement = placement_from(executor, ray_address, workers, gpus_per_trial, cpus_per_trial, storage)
    with resumable():
        run = jdnas.search_students(
            base=base, target=target, data=data, preset=preset, run_dir=run_dir, weights=weights, trials=trials,
            budget=budget, patience=patience, max_latency_ms=max_latency_ms, min_ap=min_ap, study_url=study_url, seed=seed, device=device,
            settings=overrides(override, trained), resume=resume, quiet=quiet, console=output.console, placement=placement,
        )  # fmt: skip
    _say_status(output, run, study_url)
    raise_where_missed(jdnas.search_status(run_dir, study_url=study_url))


@search.command("status")
def search_status(
    run: Annotated[Path, typer.Argument(help="Run folder.")], top: Annotated[int, typer.Option(min=1, help="Pairs to show.")] = 5,
    study_url: StudyUrl = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Print the best pairs of a running or finished search, its rate and end, and what refusing and stopping saved.

    Example: jdnas search status runs/demo
    """
    import jdnas
    from jdnas.cli.tables import status_table

    found = jdnas.search_status(run, top=top, study_url=study_url)
    Output(as_json=as_json).result(found, status_table(found))
