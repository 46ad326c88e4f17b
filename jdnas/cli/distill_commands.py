"""Commands for teachers beyond training them: how good a pool's subnets are, and distillation alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jdnas.cli.run_commands import Data, Device, Override, Preset, Quiet, Resume, RunDir, Seed, _config, _run

if TYPE_CHECKING:
    from rich.console import Console

SeedNets = Annotated[
    list[str] | None, typer.Option("--seed-net", help="A subnet by name too: r50, middle, d=3-4-6-3,w=1.25,n=1.0 (may be repeated).")
]


def teacher_eval(
    run_dir: Annotated[Path, typer.Option(help="Run folder with a trained pool.")],
    samples: Annotated[int, typer.Option(min=0, help="Random subnets of each phase, besides the largest and the smallest.")] = 5,
    seed_net: SeedNets = None, device: Device = None, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Evaluate subnets of a pool, after each phase, before and after their BN statistics are recomputed; draw AP against multiply-adds.

    Example: jdnas teacher eval --run-dir runs/pool --samples 8 --seed-net middle
    """
    from jdnas.pipeline.pool_quality import evaluate_run

    def work(console: "Console") -> None:
        from jdnas.cli.tables import quality_table

        rows, page = evaluate_run(run_dir, device, samples=samples, seed_nets=seed_net or [], console=console, quiet=quiet)
        console.print(quality_table(rows))
        console.print(f"chart: {page}")

    _run(run_dir, work)


def distill(
    teacher: Annotated[
        str, typer.Option(help="WEIGHTS.safetensors, or POOL:SUBNET with a run folder or pool file, such as runs/pool:largest or :dynamic.")
    ],
    student: Annotated[Path, typer.Option(help="Weights of the student (.safetensors, its .json beside it).")],
    data: Data = None, preset: Preset = None, run_dir: RunDir = Path("runs/distill"),
    method: Annotated[str, typer.Option(help="ours, logit (plain logit KD) or fgfi (fine-grained feature imitation).")] = "ours",
    epochs: Annotated[float | None, typer.Option(help="Epochs of a round; default: candidate_train.epochs.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; POOL:dynamic draws a teacher anew for each.")] = 1,
    seed: Seed = None, device: Device = None, override: Override = None, resume: Resume = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train a student with a teacher, without a search.

    Example: jdnas distill --teacher runs/pool:largest --student runs/pool/base/base.safetensors --data shapes --run-dir runs/kd
    """
    from jdnas.errors import ConfigError, unknown_name

    if method not in ("ours", "logit", "fgfi"):
        raise ConfigError(unknown_name("method", method, ("ours", "logit", "fgfi")))
    lengths: list[str] = [] if epochs is None else [f"candidate_train.epochs={epochs}"]
    config = _config(preset, [*(override or []), *lengths], run_dir if resume else None, data=data, seed=seed, device=device)

    def work(console: "Console") -> None:
        from jdnas.pipeline.distillation import distill_alone
        from jdnas.pipeline.progress import JobProgress

        progress = JobProgress(console, 1.0, quiet=quiet)
        options: dict[str, Any] = {"method": method, "rounds": rounds, "resume": resume, "progress": progress}
        distill_alone(config, run_dir, student=student, teacher=teacher, **options)
        if not quiet:
            console.print(f"student: {run_dir / 'student' / 'student.safetensors'}; metrics: {run_dir / 'distill.json'}")

    _run(run_dir, work)
