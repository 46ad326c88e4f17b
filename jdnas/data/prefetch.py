"""Batches on the device before they are needed."""

from collections.abc import Iterator
from dataclasses import fields

import torch

from jdnas.data.types import Batch


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on `device`; on a GPU, the next one is copied from pinned memory while the current one is worked on."""
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(side):
            moved = batch.pinned().to(device)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(side)
        if waiting is not None:
            yield _ready(*waiting)
        waiting = moved, copied
    if waiting is not None:
        yield _ready(*waiting)


def _ready(batch: Batch, copied: torch.cuda.Event) -> Batch:
    current = torch.cuda.current_stream(batch.images.device)
    current.wait_event(copied)
    for field in fields(batch):  # their memory belongs to the side stream, which must not reuse it while this one reads
        getattr(batch, field.name).record_stream(current)
    return batch
