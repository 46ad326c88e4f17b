"""A batch is normalized for the student; its teacher may be of a family with another normalization."""

import torch
from torch import Tensor

from jdnas.spec import FamilyTraits


def renormalized(images: Tensor, sizes_hw: Tensor, have: FamilyTraits, want: FamilyTraits) -> Tensor:
    """Return images `[B, 3, H, W]` normalized for `have` as they are for `want`; padding outside `sizes_hw` `[B, 2]` stays 0."""
    if (have.mean, have.std) == (want.mean, want.std):
        return images
    constants = (have.mean, have.std, want.mean, want.std)
    mean, std, new_mean, new_std = (images.new_tensor(values)[:, None, None] for values in constants)
    rows = torch.arange(images.shape[2], device=images.device) < sizes_hw[:, :1]
    columns = torch.arange(images.shape[3], device=images.device) < sizes_hw[:, 1:]
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(inside, (images * std + mean - new_mean) / new_std, 0.0)
