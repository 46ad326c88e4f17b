"""What the data part hands to training and evaluation."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, slots=True)
class Batch:
    """Images letterboxed into one canvas, with their ground truth padded to the same number of boxes `G >= 1`.

    images: `[B, 3, H, W]` float32, normalized, zero outside each image.
    sizes_hw: `[B, 2]` int64, the part of the canvas that each image covers, from the top left.
    scales: `[B]` float32, canvas pixels per original pixel (of training images too, whose crop and flip it does not tell).
    boxes_xyxy: `[B, G, 4]` float32 canvas pixels; labels: `[B, G]` int64, 1..K; both 0 where `valid` `[B, G]` is False.
    image_ids: `[B]` int64, as in the annotation file.
    """

    images: Tensor
    sizes_hw: Tensor
    scales: Tensor
    boxes_xyxy: Tensor
    labels: Tensor
    valid: Tensor
    image_ids: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on `device`."""
        return Batch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def pinned(self) -> "Batch":
        """Return the batch in page-locked memory, which GPUs copy from while the CPU goes on."""
        return Batch(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})

    def with_rows(self, boxes: int) -> "Batch":
        """Return the batch with its ground truth padded to `boxes` rows, if it has fewer."""
        more = boxes - self.valid.shape[1]
        if more <= 0:
            return self
        return replace(
            self, boxes_xyxy=pad(self.boxes_xyxy, (0, 0, 0, more)), labels=pad(self.labels, (0, more)), valid=pad(self.valid, (0, more))
        )

    def channels_last(self) -> "Batch":
        """Return the batch with its images in channels-last memory, which convolutions on CPUs and GPUs run faster on."""
        return replace(self, images=self.images.contiguous(memory_format=torch.channels_last))
