"""What a training step takes on this machine, measured on a few images: what an estimate of a run rests on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from jdnas.data.types import Batch
from jdnas.models.bound import materialize
from jdnas.models.detector import build
from jdnas.models.weights import State
from jdnas.pipeline.context import Context
from jdnas.pipeline.detector_training import DetectorLoss
from jdnas.spec import DetectorSpec
from jdnas.training.loop import make_optimizer, prepare, train_step
from jdnas.training.settings import TrainSettings

PROBE_BATCH = 2
WANTED_STEP_S, LONGEST_STEP_S = 10.0, 30.0
_TIMED_STEPS, _TIMED_SECONDS = 3, 4.0
_BACKWARD = 3.0  # a training step takes about three forward passes: tells in advance whether a probe would take too long


@dataclass(frozen=True, slots=True)
class Probe:
    """One detector at the base's resolution: seconds per image of looking (inference), of a training step, and of loading it.

    `weight_bytes`: parameters and buffers. `activation_bytes`: what one image leaves for the backward pass. A figure that would have
    taken too long to measure is None.
    """

    look_s: float
    train_s: float | None
    load_s: float
    weight_bytes: int
    activation_bytes: int | None


def probe(context: Context, spec: DetectorSpec) -> Probe:
    """Measure a detector with fresh weights on a batch of training images; the weights are thrown away.

    The batch is that of the base's training, or a part of it where a step would take too long.
    """
    settings = context.config.base_train
    count = min(PROBE_BATCH, settings.batch // settings.accumulate)
    batch, load_s = _loaded(context, count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.config.seed)
        state = {name: tensor.to(context.device) for name, tensor in build(spec).state_dict().items()}
        weight_bytes = sum(tensor.nbytes for tensor in state.values())
        look_s = _look(context, spec, state, batch)
        if look_s * count * _BACKWARD > LONGEST_STEP_S:
            return Probe(look_s, None, load_s, weight_bytes, None)
        if (more := _count_for(look_s, settings.batch // settings.accumulate)) > count:
            batch, load_s = _loaded(context, more)
            look_s = _look(context, spec, state, batch)
        train_s, activation_bytes = _train(context, spec, state, batch)
    return Probe(look_s, train_s, load_s, weight_bytes, activation_bytes)


def _count_for(look_s: float, most: int) -> int:
    """Return how many images, up to `most`, a training step may have that is to take some seconds."""
    while most > PROBE_BATCH and look_s * most * _BACKWARD > WANTED_STEP_S:
        most //= 2
    return most


def _settings(context: Context, count: int) -> TrainSettings:
    return context.config.base_train.model_copy(update={"batch": count, "accumulate": 1, "scales": (1.0,)})


def _loaded(context: Context, count: int) -> tuple[Batch, float]:
    """Return a batch, and the seconds per image that loading it takes once its files are decoded; with workers that hides in training."""
    settings = _settings(context, count)
    next(iter(context.train_batches(settings, context.config.seed, 0)))
    started = time.perf_counter()
    batch = next(iter(context.train_batches(settings, context.config.seed, 0)))
    seconds = 0.0 if context.config.data_settings.workers else (time.perf_counter() - started) / count
    return batch.to(context.device).channels_last(), seconds


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _look(context: Context, spec: DetectorSpec, state: State, batch: Batch) -> float:
    detector = materialize(spec, state, context.device)
    seconds = []
    with torch.inference_mode():
        for _ in range(2):  # the first warms up
            started = _now(context.device)
            detector(batch.images, batch.sizes_hw)
            seconds.append(_now(context.device) - started)
    return seconds[-1] / len(batch.images)


def _train(context: Context, spec: DetectorSpec, state: State, batch: Batch) -> tuple[float, int]:
    settings = _settings(context, len(batch.images))
    parameters = prepare(state, norms=settings.norm != "frozen")
    optimizer = make_optimizer(parameters, settings)
    loss = DetectorLoss(spec, state, seed=0, gamma_penalty=settings.gamma_penalty, frozen_norms=settings.norm == "frozen")
    weights = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    with _saved_for_backward(weights) as saved:
        train_step(loss, [batch], 0, optimizer, parameters, settings)  # warms up as well
    seconds: list[float] = []
    while len(seconds) < _TIMED_STEPS and sum(seconds) < _TIMED_SECONDS:
        started = _now(context.device)
        train_step(loss, [batch], len(seconds) + 1, optimizer, parameters, settings)
        seconds.append(_now(context.device) - started)
    return median(seconds) / len(batch.images), sum(saved.values()) // len(batch.images)


@contextmanager
def _saved_for_backward(weights: set[int]) -> Iterator[dict[int, int]]:
    """Collect the bytes of every storage that is kept for the backward pass, by its address; those of the weights do not count."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
