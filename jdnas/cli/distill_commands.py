"""Commands for teachers beyond training them: how good a pool's subnets are, and distillation alone."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from jdnas.cli.output import AsJson, Output, Quiet
from jdnas.cli.run_commands import Data, Device, Override, Preset, Resume, RunDir, Seed, overrides, resumable, this_command

SeedNets = Annotated[
    list[str] | None, typer.Option("--seed-net", help="A subnet by name too: r50, middle, d=3-4-6-3,w=1.25,n=1.0 (may be repeated).")
]


def teacher_eval(
    run_dir: Annotated[Path, typer.Option(help="Run folder with a trained pool.")],
    samples: Annotated[int, typer.Option(min=0, help="Random subnets of each phase, besides the largest and the smallest.")] = 5,
    seed_net: SeedNets = None, device: Device = None, quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Evaluate subnets of a pool, after each phase, before and after their BN statistics are recomputed; draw AP against multiply-adds.

    Example: jdnas teacher eval --run-dir runs/pool --samples 8 --seed-net middle
    """
    import jdnas
    from jdnas.cli.tables import quality_table

    output = Output(quiet, as_json)
    with resumable(this_command()):
        rows, page = jdnas.evaluate_pool(
            run_dir, samples=samples, seed_nets=seed_net, device=device, quiet=quiet, console=output.console
        )  # fmt: skip
    output.result({"subnets": [asdict(row) for row in rows], "chart": str(page)}, quality_table(rows), f"chart: {page}")


def distill(
    teacher: Annotated[
        str, typer.Option(help="WEIGHTS.safetensors, or POOL:SUBNET with a run folder or pool file, such as runs/pool:largest or :dynamic.")
    ],
    student: Annotated[Path, typer.Option(help="Weights of the student (.safetensors, its .json beside it).")],
    data: Data = None, preset: Preset = None, run_dir: RunDir = Path("runs/distill"),
    method: Annotated[str, typer.Option(help="ours, logit (plain logit KD) or fgfi (fine-grained feature imitation).")] = "ours",
    epochs: Annotated[float | None, typer.Option(help="Epochs of a round; default: candidate_train.epochs.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; POOL:dynamic draws a teacher anew for each.")] = 1,
    seed: Seed = None, device: Device = None, override: Override = None, resume: Resume = False,
    quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train a student with a teacher, without a search.

    Example: jdnas distill --teacher runs/pool:largest --student runs/pool/base/base.safetensors --data shapes --run-dir runs/kd
    """
    import jdnas

    output = Output(quiet, as_json)
    with resumable():
        done = jdnas.distill_student(
            teacher, student, data=data, preset=preset, run_dir=run_dir, method=method, epochs=epochs, rounds=rounds, seed=seed,
            device=device, settings=overrides(override), resume=resume, quiet=quiet, console=output.console,
        )  # fmt: skip
    output.result(done.record | {"path": str(done.path)}, f"student: {done.path}; metrics: {run_dir / 'distill.json'}")
