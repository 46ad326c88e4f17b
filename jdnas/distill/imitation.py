"""Fine-grained feature imitation (Wang et al., CVPR 2019): imitate the pyramid where anchors overlap objects. For comparison."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from jdnas.distill.losses import standardize
from jdnas.models.anchors import anchors_of_maps
from jdnas.models.boxes import pairwise_iou
from jdnas.models.global_batch import total
from jdnas.spec import Head

OVERLAP_SHARE = 0.5  # psi of the paper


@torch.no_grad()
def imitation_masks(maps_hw: Sequence[tuple[int, int]], head: Head, truth_xyxy: Tensor, truth_valid: Tensor) -> list[Tensor]:
    """Return the points to imitate, one bool mask `[B, H, W]` per level.

    For each object, a point counts where one of its anchors overlaps it by more than half of the largest overlap of any anchor
    with it. `truth_xyxy` `[B, G, 4]` canvas pixels, `truth_valid` `[B, G]`; `maps_hw` are the sizes of all levels.
    """
    anchors = anchors_of_maps(tuple(maps_hw), head, device=truth_xyxy.device)
    near = torch.stack([_near(anchors, truth, valid) for truth, valid in zip(truth_xyxy, truth_valid, strict=True)])
    sizes = [h * w * head.anchors for h, w in maps_hw]
    levels = torch.split(near, sizes, 1)
    return [level.reshape(len(level), h, w, -1).any(-1) for level, (h, w) in zip(levels, maps_hw, strict=True)]


def _near(anchors: Tensor, truth_xyxy: Tensor, valid: Tensor) -> Tensor:
    """Return which anchors `[N]` are near an object of one image."""
    overlap = pairwise_iou(anchors, truth_xyxy).nan_to_num(0.0) * valid  # [N, G]
    largest = overlap.amax(dim=0, keepdim=True)
    return ((overlap > OVERLAP_SHARE * largest) & (largest > 0)).any(dim=1)


def imitation_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], masks: Sequence[Tensor], adapter: Tensor, *, normalize: bool = False
) -> Tensor:
    """Return 1/(2 N_p) sum over masked points and channels of (f_adapt(F_S) - F_T)^2, over all levels.

    Maps `[B, C_s, H, W]` and `[B, C_t, H, W]` per level, masks `[B, H, W]`, `adapter` `[C_t, C_s, k, k]`. N_p is the number of masked
    points; 0 without any. `normalize` standardizes both sides first, over each level's masked points.
    """
    loss: Tensor | float = 0.0
    for features, goal, mask in zip(student, teacher, masks, strict=True):
        adapted = F.conv2d(features, adapter.to(features.dtype), padding=adapter.shape[-1] // 2).float()
        target, counts = goal.float(), mask[:, None]
        if normalize:
            adapted, target = standardize(adapted, counts), standardize(target, counts)
        loss = loss + torch.where(counts, (adapted - target).square(), adapted.new_zeros(())).sum()
    points = total(torch.stack([mask.sum() for mask in masks]).sum())
    return torch.as_tensor(loss) / (2 * points.clamp(min=1))
