"""Commands of the student: its actions, and pruning alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jdnas.cli.run_commands import Device, Override, Preset, Quiet, Seed, TargetName

if TYPE_CHECKING:
    from jdnas.config import RunConfig

app = typer.Typer(no_args_is_help=True)
Spec = Annotated[str, typer.Argument(help="A base's name (`jdnas bases`), or a weight file.")]
Classes = Annotated[int, typer.Option(min=1, help="Foreground classes of a named base.")]
Generation = Annotated[int, typer.Option(min=0, help="How many candidates were accepted before; preferences follow from it.")]
Size = Annotated[str, typer.Option(help="Input of the multiply-adds as WIDTHxHEIGHT.")]
Canvas = Annotated[str | None, typer.Option(help="Input canvas as WIDTHxHEIGHT; default: the size in the file, or the settings'.")]
PAPER_SIZE = "1333x800"


def _settings(preset: str | None, overrides: list[str] | None, **given: Any) -> "RunConfig":
    from jdnas.config import DEFAULT_PRESET, parse_overrides, resolve

    return resolve(preset or DEFAULT_PRESET, parse_overrides(overrides or []) | {k: v for k, v in given.items() if v is not None})


@app.command()
def actions(
    spec: Spec, generation: Generation = 0, target: TargetName = None, preset: Preset = None, override: Override = None,
    classes: Classes = 80, size: Size = PAPER_SIZE,
) -> None:  # fmt: skip
    """List the legal actions of a student, and how likely each is.

    Example: jdnas student actions r50 --preset deploy --generation 10
    """
    from rich.console import Console

    from jdnas.cli.specs import spec_of
    from jdnas.cli.student_tables import actions_table
    from jdnas.sizes import size_hw_from_text

    student = spec_of(spec, classes)
    rules = _settings(preset, override, target=target).action_rules(student)
    Console().print(actions_table(spec, student, rules, generation, size_hw_from_text(size)))


@app.command()
def sample(
    spec: Spec, count: Annotated[int, typer.Option(min=1, help="Actions to draw, one after the other.")] = 1, generation: Generation = 0,
    target: TargetName = None, preset: Preset = None, override: Override = None, seed: Seed = None,
    classes: Classes = 80, size: Size = PAPER_SIZE,
    apply: Annotated[bool, typer.Option("--apply", help="Apply each action to the student that the one before it left.")] = False,
) -> None:  # fmt: skip
    """Draw legal actions with the paper's preferences; one JSON object per line. With --apply, say what each does to the student.

    Which channels or block go is decided by the weights: those of a .safetensors file, else freshly drawn ones.

    Example: jdnas student sample runs/demo/base/base.safetensors --count 3 --apply
    """
    import json
    import random

    from jdnas.cli.specs import weights_of
    from jdnas.sizes import size_hw_from_text
    from jdnas.student.actions import sample_action

    student, state = weights_of(spec, classes)
    rules = _settings(preset, override, target=target).action_rules(student)
    rng, size_hw = random.Random(seed or 0), size_hw_from_text(size)
    for number in range(count):
        action = sample_action(student, rng, generation + number * apply, rules)
        if action is None:
            print("no action is legal")
            return
        print(json.dumps(action.to_dict()))
        if apply:
            from jdnas.cli.student_tables import applied

            state, student, lines = applied(student, state, action, rules, (seed or 0) + number, size_hw)
            print("\n".join(f"  {line}" for line in lines))


@app.command()
def explain(before: Spec, after: Spec, classes: Classes = 80) -> None:
    """Say in words what differs between two architectures.

    Example: jdnas student explain runs/demo/base/base.json runs/demo/student/student.json
    """
    from jdnas.cli.specs import spec_of
    from jdnas.student.explain import explain as difference

    print("\n".join(difference(spec_of(before, classes), spec_of(after, classes))))


def prune(
    weights: Annotated[Path, typer.Option(help="The trained detector: of jdnas, or what `jdnas import` reads.")],
    data: Annotated[str, typer.Option(help="Folder in COCO layout: the data set that the detector was trained on.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")] = Path("pruned.safetensors"),
    ratio: Annotated[float, typer.Option(help="Share of the channels (or of what --kind names) that goes.")] = 0.3,
    kind: Annotated[str, typer.Option(help="What to prune: the backbone's channels, or neck or heads (prune_rpn ...).")] = "prune_channels",
    finetune_epochs: Annotated[float, typer.Option(min=0, help="Epochs of training after pruning.")] = 3.0,
    size: Canvas = None,
    target: TargetName = None, preset: Preset = None, override: Override = None, seed: Seed = None, device: Device = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Prune a trained detector and fine-tune it: channels by their batch norm gammas, ranked over the whole backbone.

    Interrupted, the same command goes on where it was. Learning rate and batch of the fine-tuning are those of `candidate_train`.

    Example: jdnas prune --weights runs/demo/base/base.safetensors --data my_data --ratio 0.3 --finetune-epochs 3
    """
    from rich.console import Console

    from jdnas.pipeline.prune import prune as run
    from jdnas.pipeline.prune import prune_action, report_line

    config = _settings(preset, override, data=data, target=target, weights=str(weights), seed=seed, device=device)
    report = run(
        config, weights, out, action=prune_action(kind, ratio), epochs=finetune_epochs, size=size, console=Console(), quiet=quiet
    )  # fmt: skip
    print(f"{out}: {report_line(report)}")


def register(root: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    root.command()(prune)
    root.add_typer(app, name="student", help="The student's actions: what may be done to an architecture.")
