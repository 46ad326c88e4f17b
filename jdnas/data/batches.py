"""Batches of letterboxed images for training and evaluation."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from jdnas.data.augment import AugmentSettings, Sample, augmented, unaugmented
from jdnas.data.images import image_store
from jdnas.data.records import DetectionSet
from jdnas.data.sampling import epoch_order, repeat_factors
from jdnas.data.types import Batch
from jdnas.errors import ConfigError, DataError

CANVAS_MULTIPLE = 32
_ORDER, _CANVAS, _SAMPLE = range(3)  # separate streams of random numbers under one seed

Size = tuple[int, int]
Colour = Sequence[float]


def train_batches(
    data: DetectionSet, *, sizes_hw: Sequence[Size], batch: int, seed: int, start_step: int = 0,
    augment: AugmentSettings, mean: Colour, std: Colour, workers: int = 0, cache: bool | None = None, share: tuple[int, int] = (0, 1),
    repeat_threshold: float = 0.0,
) -> Iterator[Batch]:  # fmt: skip
    """Yield augmented batches without end, from number `start_step` on; of a `share` (k, n), the k-th n-th of each.

    Batch `step` depends on (seed, step) alone, whatever `workers` and `cache` are. Each epoch is a new order of all images that
    are not merely crowd regions; a batch may reach into the next epoch. Its canvas is drawn from `sizes_hw`. `workers` threads
    prepare batches ahead (decoding and resizing release the GIL); `cache` keeps decoded images in memory, see `image_store`.
    With a `repeat_threshold`, images of rare classes come more often (`jdnas.data.sampling`).
    """
    _check(batch, sizes_hw, workers)
    rank, world = share
    if batch % world:
        raise ConfigError(f"a batch of {batch} images cannot be shared by {world} devices; make it a multiple of {world}")
    positions = range(batch // world * rank, batch // world * (rank + 1))
    store = image_store(data, cache)
    indices = np.array([i for i, r in enumerate(data.records) if not len(r.labels) or not r.crowd.all()])
    if not len(indices):
        raise DataError(f"data set {data.name!r} ({data.split}) has no image to train on; see its annotations")
    factors = repeat_factors([data.records[i] for i in indices], repeat_threshold)
    order = lru_cache(maxsize=4)(lambda epoch: epoch_order(indices, factors, np.random.default_rng((seed, _ORDER, epoch))))

    def make(step: int) -> Batch:
        size_hw = sizes_hw[int(np.random.default_rng((seed, _CANVAS, step)).integers(len(sizes_hw)))]
        chosen, samples = [], []
        for position in positions:
            epoch, place = divmod(step * batch + position, len(indices))
            chosen.append(int(order(epoch)[place]))
            rng = np.random.default_rng((seed, _SAMPLE, step, position))
            samples.append(augmented(store[chosen[-1]], *_trainable(data, chosen[-1]), size_hw, augment, rng))
        return _collate(samples, [data.records[i].image_id for i in chosen], size_hw, mean, std)

    return _ahead(make, itertools.count(start_step), workers)


def eval_batches(
    data: DetectionSet, *, size_hw: Size, batch: int, mean: Colour, std: Colour, workers: int = 0, cache: bool | None = None
) -> Iterator[Batch]:
    """Yield every image once, in order and unaugmented, with its boxes except crowd regions; the last batch may be smaller."""
    _check(batch, [size_hw], workers)
    store = image_store(data, cache)

    def make(start: int) -> Batch:
        chosen = range(start, min(start + batch, len(data.records)))
        samples = [unaugmented(store[i], *_trainable(data, i), size_hw) for i in chosen]
        return _collate(samples, [data.records[i].image_id for i in chosen], size_hw, mean, std)

    return _ahead(make, range(0, len(data.records), batch), workers)


def _check(batch: int, sizes_hw: Sequence[Size], workers: int) -> None:
    if batch < 1 or workers < 0:
        raise ConfigError(f"batch is {batch} and workers {workers}; they must be at least 1 and 0")
    wrong = [size for size in sizes_hw if min(size) < 1 or any(side % CANVAS_MULTIPLE for side in size)]
    if wrong or not sizes_hw:
        got = "no input size" if not sizes_hw else f"input size {wrong[0][0]}x{wrong[0][1]}"
        raise ConfigError(f"{got} given; height and width must be positive multiples of {CANVAS_MULTIPLE}")


def _trainable(data: DetectionSet, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    record = data.records[index]
    return record.boxes_xyxy[~record.crowd], record.labels[~record.crowd]


def _collate(samples: list[Sample], image_ids: list[int], size_hw: Size, mean: Colour, std: Colour) -> Batch:
    count, boxes = len(samples), max(1, *(len(s.labels) for s in samples))
    images = np.zeros((count, 3, *size_hw), np.float32)
    boxes_xyxy = np.zeros((count, boxes, 4), np.float32)
    labels = np.zeros((count, boxes), np.int64)
    valid = np.zeros((count, boxes), np.bool_)
    shift, factor = (np.array(c, np.float32).reshape(3, 1, 1) for c in (mean, 1 / np.array(std)))
    for row, sample in enumerate(samples):
        _, height, width = sample.image.shape
        seen = images[row, :, :height, :width]
        np.subtract(sample.image, shift, out=seen)
        seen *= factor
        found = len(sample.labels)
        boxes_xyxy[row, :found], labels[row, :found], valid[row, :found] = sample.boxes_xyxy, sample.labels, True
    return Batch(
        images=torch.from_numpy(images),
        sizes_hw=torch.tensor([s.image.shape[1:] for s in samples], dtype=torch.int64),
        scales=torch.tensor([s.scale for s in samples], dtype=torch.float32),
        boxes_xyxy=torch.from_numpy(boxes_xyxy),
        labels=torch.from_numpy(labels),
        valid=torch.from_numpy(valid),
        image_ids=torch.tensor(image_ids, dtype=torch.int64),
    )


def _ahead(make: Callable[[int], Batch], steps: Iterable[int], workers: int) -> Iterator[Batch]:
    """Yield `make(step)` in order, made by `workers` threads up to one batch each ahead of the reader."""
    if workers == 0:
        yield from map(make, steps)
        return
    remaining = iter(steps)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    try:
        pending: deque[Future[Batch]] = deque(pool.submit(make, step) for step in itertools.islice(remaining, workers + 1))
        while pending:
            ready = pending.popleft().result()
            pending.extend(pool.submit(make, step) for step in itertools.islice(remaining, 1))
            yield ready
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
