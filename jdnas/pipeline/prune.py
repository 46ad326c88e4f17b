"""Pruning alone (Joint-DetNAS, Table 2): take channels out of a trained detector, then fine-tune what is left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from jdnas.config import RunConfig
from jdnas.data.coco import check_splits, load_split
from jdnas.data.images import keep_images
from jdnas.data.records import DetectionSet
from jdnas.errors import CheckpointError, ConfigError, DataError, unknown_name
from jdnas.models.complexity import multiply_adds, parameters
from jdnas.models.weights import State
from jdnas.pipeline.context import Context, canvas_sizes, for_trained_weights, pick_device
from jdnas.pipeline.detector_training import evaluate_detector, train_detector
from jdnas.pipeline.norms import with_fresh_statistics
from jdnas.pipeline.progress import JobProgress
from jdnas.pipeline.run_folder import RunFolder
from jdnas.pipeline.weights import WeightFile, is_own, open_weights
from jdnas.sizes import SizeHW, size_hw_from_text
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Action
from jdnas.student.explain import explain
from jdnas.student.heads import HEAD_KINDS
from jdnas.student.inherit import decide, transform
from jdnas.training.checkpoint import save_detector, stem_of
from jdnas.training.evaluate import Metrics
from jdnas.training.loop import Resume
from jdnas.training.schedule import steps_of

TRAINING_WORK, EVALUATION_WORK = 4.0, 1.0  # an image trained on costs about four times one that is only looked at


def open_detector(config: RunConfig, weights: Path, size: str | None = None) -> tuple[Context, State]:
    """Return the context of a trained detector, which takes the place of a base, and its weights.

    It is trained and evaluated at `size` (WIDTHxHEIGHT) alone, else at the size in its file, else at the settings' resolutions.
    """
    device, read = pick_device(config.device), open_weights(weights)
    if not read.has_heads:
        raise CheckpointError(f"{weights} holds a backbone without detection heads; train it first with: jdnas train --weights {weights}")
    root = Path(config.data)
    train, val = load_split(root, "train"), load_split(root, "val")
    check_splits(train, val)
    _check_classes(weights, read, train)
    for split in (train, val):
        keep_images(split, config.data_settings.cache, weights.parent / "cache")
    sizes: tuple[SizeHW, ...] = canvas_sizes(train, config.data_settings.long_sides)
    if size is not None:
        sizes = (size_hw_from_text(size),)
    elif read.size_hw is not None:
        sizes = (read.size_hw,)
    return Context(for_trained_weights(config), RunFolder(weights.parent), train, val, sizes, read.spec, device), read.state


def _check_classes(weights: Path, read: WeightFile, data: DetectionSet) -> None:
    if read.spec.num_classes != len(data.classes) or (is_own(weights) and read.classes and read.classes != data.classes):
        known = ", ".join(read.classes) or f"{read.spec.num_classes} classes"
        raise DataError(f"{weights} knows {known}; {data.name} has {', '.join(data.classes)}: give the data set that it was trained on")


def _figures(spec: DetectorSpec, size_hw: SizeHW, metrics: Metrics) -> dict[str, Any]:
    return {
        "flops_g": round(multiply_adds(spec, size_hw) / 1e9, 4), "params_m": round(parameters(spec) / 1e6, 4),
        "ap": metrics.ap, "ap50": metrics.ap50,
    }  # fmt: skip


def prune_action(kind: str, ratio: float) -> Action:
    """Return the action that takes `ratio` off what `kind` names; a ConfigError names the kinds that prune by a ratio."""
    known = ("prune_channels", *HEAD_KINDS)
    if kind not in known:
        raise ConfigError(unknown_name("kind of pruning", kind, known))
    if not 0 < ratio < 1:
        raise ConfigError(f"--ratio must be between 0 and 1, got {ratio:g}")
    return Action.from_dict({"kind": kind, "ratio": ratio})


def check_out(out: Path, weights: Path) -> None:
    """Raise a ConfigError where what is made of the detector in `weights` cannot be written to `out`."""
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out must end in .safetensors, got {out}")
    if stem_of(out.resolve()) == stem_of(weights.resolve()):
        raise ConfigError(f"--out {out} would overwrite the detector that it is made from; choose another file")
    if out.parent.exists() and not out.parent.is_dir():
        raise CheckpointError(f"{out.parent} is a file; choose another --out")


def prune(
    config: RunConfig, weights: Path, out: Path, *, action: Action, epochs: float, size: str | None, console: Console, quiet: bool = False
) -> dict[str, Any]:  # fmt: skip
    """Prune the detector in `weights` by one action, fine-tune it, write it to `out`, and return the report.

    The report has `base`, `pruned` (before fine-tuning) and `finetuned`, each with multiply-adds, parameters, AP and AP50. Called again
    after it was interrupted, it goes on with the fine-tuning where that was.
    """
    check_out(out, weights)
    context, state = open_detector(config, weights, size)
    spec, size_hw, stem = context.base_spec, context.base_size_hw, stem_of(out)
    rules = replace(config.action_rules(spec), heads=True)  # what is asked for by name is allowed
    decision = decide(state, spec, action, rules, seed=config.seed)
    train = context.config.candidate_train.lasting(max(epochs, 1e-9))
    steps = steps_of(epochs, len(context.train.records), train.batch) if epochs > 0 else 0
    look, learn = EVALUATION_WORK * len(context.val.records), TRAINING_WORK * steps * train.batch
    progress = JobProgress(console, (2 + bool(steps)) * look + learn, quiet=quiet)
    with progress.running():
        for line in explain(spec, decision.target):
            progress.say(f"  {line}")
        with progress.stage("Evaluating the detector as it came and as it was pruned", 2 * look):
            report: dict[str, Any] = {"base": _figures(spec, size_hw, evaluate_detector(context, spec, state, size_hw))}
            spec, state = decision.target, with_fresh_statistics(context, decision.target, transform(state, decision))
            metrics = evaluate_detector(context, spec, state, size_hw)
            report["pruned"] = _figures(spec, size_hw, metrics)
        if steps:
            resume = Resume(stem.with_name(f"{stem.name}.partial.safetensors"), config.checkpoint_seconds)
            with progress.stage(f"Fine-tuning for {epochs:g} epochs", learn + look):
                state, _ = train_detector(
                    context, spec, state, train, seed=config.seed, steps=steps, resume=resume, on_step=progress.steps(learn, steps)
                )  # fmt: skip
                metrics = evaluate_detector(context, spec, state, size_hw)
        report["finetuned"] = _figures(spec, size_hw, metrics)
    report |= {"action": action.to_dict(), "epochs": epochs, "seed": config.seed, "images": steps * train.batch, "size_hw": list(size_hw)}
    save_detector(stem, spec, state, context.described(size_hw, metrics=metrics.to_dict(), pruning=report))
    if steps:
        resume.path.unlink(missing_ok=True)
    return report


def report_line(report: dict[str, Any]) -> str:
    """Return the figures of a pruning in one line."""
    before, cut, after = report["base"], report["pruned"], report["finetuned"]
    share = 100 * (1 - after["flops_g"] / before["flops_g"])
    return (
        f"multiply-adds {before['flops_g']:.3f} -> {after['flops_g']:.3f} G (-{share:.1f} %), parameters {before['params_m']:.2f} -> "
        f"{after['params_m']:.2f} M, AP {before['ap']:.3f} -> {after['ap']:.3f} ({cut['ap']:.3f} before {report['epochs']:g} epochs "
        "of fine-tuning)"
    )
