"""Commands of the student: its actions, and pruning alone."""

from pathlib import Path
from typing import Annotated

import typer

from jdnas.cli.output import AsJson, Output, Quiet
from jdnas.cli.run_commands import Device, Override, Preset, Seed, TargetName, overrides, resumable, this_command

app = typer.Typer(no_args_is_help=True)
Spec = Annotated[str, typer.Argument(help="A base's name (`jdnas bases`), or a weight file.")]
Classes = Annotated[int, typer.Option(min=1, help="Foreground classes of a named base.")]
Generation = Annotated[int, typer.Option(min=0, help="How many candidates were accepted before; preferences follow from it.")]
Size = Annotated[str, typer.Option(help="Input of the multiply-adds as WIDTHxHEIGHT.")]
Canvas = Annotated[str | None, typer.Option(help="Input canvas as WIDTHxHEIGHT; default: the size in the file, or the settings'.")]
PAPER_SIZE = "1333x800"


@app.command()
def actions(
    spec: Spec, generation: Generation = 0, target: TargetName = None, preset: Preset = None, override: Override = None,
    classes: Classes = 80, size: Size = PAPER_SIZE, as_json: AsJson = False,
) -> None:  # fmt: skip
    """List the legal actions of a student, and how likely each is.

    Example: jdnas student actions r50 --preset deploy --generation 10
    """
    from jdnas.api import complexity, student_actions
    from jdnas.cli.tables import actions_table

    settings = overrides(override)
    choices = student_actions(spec, generation=generation, target=target, preset=preset, settings=settings, classes=classes)
    data = [choice.action.to_dict() | {"what": choice.what, "chance": choice.chance} for choice in choices]
    cost = complexity(spec, size=size, classes=classes)["flops_g"]
    title = f"{spec}: {cost:.1f} GMAC; {len(choices)} legal actions at generation {generation}"
    Output(as_json=as_json).result(data, actions_table(title, choices))


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

    from jdnas.api import sample_actions

    drawn = 0
    for action, words in sample_actions(
        spec, count=count, apply=apply, generation=generation, target=target, preset=preset, settings=overrides(override), seed=seed or 0,
        classes=classes, size=size,
    ):  # fmt: skip
        print("\n".join([json.dumps(action), *(f"  {line}" for line in words)]))
        drawn += 1
    if drawn < count:
        print("no action is legal")


@app.command()
def explain(before: Spec, after: Spec, classes: Classes = 80) -> None:
    """Say in words what differs between two architectures.

    Example: jdnas student explain runs/demo/base/base.json runs/demo/student/student.json
    """
    from jdnas.api import explain as difference

    print("\n".join(difference(before, after, classes=classes)))


def prune(
    weights: Annotated[Path, typer.Option(help="The trained detector: of jdnas, or what `jdnas import` reads.")],
    data: Annotated[str, typer.Option(help="Folder in COCO layout: the data set that the detector was trained on.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")] = Path("pruned.safetensors"),
    ratio: Annotated[float, typer.Option(help="Share of the channels (or of what --kind names) that goes.")] = 0.3,
    kind: Annotated[str, typer.Option(help="What to prune: the backbone's channels, or neck or heads (prune_rpn ...).")] = "prune_channels",
    finetune_epochs: Annotated[float, typer.Option(min=0, help="Epochs of training after pruning.")] = 3.0,
    size: Canvas = None,
    target: TargetName = None, preset: Preset = None, override: Override = None, seed: Seed = None, device: Device = None,
    quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Prune a trained detector and fine-tune it: channels by their batch norm gammas, ranked over the whole backbone.

    Interrupted, the same command goes on where it was. Learning rate and batch of the fine-tuning are those of `candidate_train`.

    Example: jdnas prune --weights runs/demo/base/base.safetensors --data my_data --ratio 0.3 --finetune-epochs 3
    """
    from jdnas.api import prune as run
    from jdnas.pipeline.prune import report_line

    output = Output(quiet, as_json)
    with resumable(this_command()):
        done = run(
            weights, data, out=out, ratio=ratio, kind=kind, finetune_epochs=finetune_epochs, size=size, target=target, preset=preset,
            seed=seed, device=device, settings=overrides(override), quiet=quiet, console=output.console,
        )  # fmt: skip
    output.result(done.record | {"out": str(out)}, f"{out}: {report_line(done.record)}")


def upgrade(
    weights: Annotated[Path, typer.Option(help="The trained detector: of jdnas, or what `jdnas import` reads.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")] = Path("upgraded.safetensors"),
    deform: Annotated[str | None, typer.Option(help="Stages whose 3x3 convolutions become deformable, such as c3,c4,c5.")] = None,
    modulated: Annotated[bool, typer.Option("--modulated", help="Modulated deformable convolutions (DCNv2).")] = False,
    head: Annotated[str | None, typer.Option(help="cascade: three box heads, one after the other.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Give a trained detector deformable convolutions or a cascade head; it keeps its weights, and is to be trained on.

    Deformable stages need a family with bottleneck blocks. Train on with `jdnas distill`, or without a teacher with `jdnas train`.

    Example: jdnas upgrade --weights runs/x101/student/student.safetensors --deform c3,c4,c5 --head cascade --out upgraded.safetensors
    """
    from jdnas.api import upgrade as run
    from jdnas.errors import ConfigError, unknown_name

    if head not in (None, "cascade"):
        raise ConfigError(unknown_name("head", head, ("cascade",)))
    made = run(weights, out=out, deform=deform, modulated=modulated, cascade=head == "cascade")
    next_step = f"{out} written; train it on with: jdnas train --weights {out}, or jdnas distill --student {out}"
    data = {"file": str(made.path), "spec": made.spec.to_dict(), "changes": list(made.changes)}
    Output(as_json=as_json).result(data, "\n".join((*made.changes, next_step)))


def register(root: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    root.command()(prune)
    root.command()(upgrade)
    root.add_typer(app, name="student", help="The student's actions: what may be done to an architecture.")
