"""`jdnas compare`: a joint search beside what it is better than, or not."""

from pathlib import Path
from typing import Annotated

import typer

from jdnas.cli.goals import Trials
from jdnas.cli.output import AsJson, Output, Quiet
from jdnas.cli.run_commands import Base, Data, Device, Override, Preset, Resume, RunDir, TargetName, Trained, Weights, overrides, resumable
from jdnas.errors import ConfigError, unknown_name

Methods = Annotated[str, typer.Option(help="Of joint, joint-polish, prune-kd, nas-prune-kd, nas and random, separated by commas.")]
Equal = Annotated[str, typer.Option(help="What every method gets as much of: images (training images; base and pool count for nobody).")]
Seeds = Annotated[str, typer.Option(help="Seeds of the methods: 0,1,2 or 0 1 2. The base and the pool are those of --base-seed for all.")]


def seeds_from_text(texts: list[str]) -> tuple[int, ...]:
    """Read seeds such as ["0,1", "2"]; a ConfigError shows what is allowed."""
    words = [word for text in texts for word in text.replace(",", " ").split()]
    if not words or not all(word.isdecimal() for word in words):
        raise ConfigError(f"--seeds takes whole numbers such as 0 1 2, got {' '.join(texts)!r}")
    return tuple(map(int, words))


def compare(
    context: typer.Context, methods: Methods = "joint,prune-kd,random", equal: Equal = "images",
    images: Annotated[int | None, typer.Option(min=1, help="Training images of each; default: those of search.trials candidates.")] = None,
    seeds: Seeds = "0,1,2",
    prune_to: Annotated[
        float | None, typer.Option(help="Share of the base's cost that pipelines prune to; default: what joint came to, else 0.7.")
    ] = None,
    base: Base = None, target: TargetName = None, data: Data = None, preset: Preset = None, run_dir: RunDir = Path("runs/compare"),
    weights: Weights = None, trained: Trained = False, trials: Trials = None,
    base_seed: Annotated[int | None, typer.Option(help="Seed of base and pool, which all share.")] = None,
    device: Device = None, override: Override = None, resume: Resume = False, quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Run search methods from one base and pool on equal training images, and print AP, H and AP at equal cost over seeds.

    A method and seed that is finished is not done again with --resume. The tables are kept as compare.json and compare.md.

    Example: jdnas compare --methods joint,prune-kd,random --equal images --seeds 0,1,2 --data shapes --run-dir runs/compare
    """
    import jdnas
    from jdnas.cli.tables import comparison_table

    if equal != "images":
        raise ConfigError(unknown_name("--equal", equal, ["images"]))
    output = Output(quiet, as_json)
    names = tuple(name for name in methods.replace(",", " ").split())
    with resumable():
        table = jdnas.compare_methods(
            methods=names, seeds=seeds_from_text([seeds, *context.args]), images=images, prune_to=prune_to, base=base, target=target,
            data=data, preset=preset, run_dir=run_dir, weights=weights, trials=trials, seed=base_seed, device=device,
            settings=overrides(override, trained), resume=resume, quiet=quiet, console=output.console,
        )  # fmt: skip
    output.result(table, *comparison_table(table))


def register(app: typer.Typer) -> None:
    """Add the command; `--seeds 0 1 2` leaves arguments over, which are seeds too."""
    app.command(context_settings={"allow_extra_args": True})(compare)
