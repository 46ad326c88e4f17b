"""Conventions folded into weights: input format into the stem, epsilons into gammas, delta factors into the box layers."""

import torch
from torch import Tensor

from jdnas.models.checkpoints.origin import CASCADE_BOX_WEIGHTS, RPN_BOX_WEIGHTS, InputFormat, Origin, rescaled_deltas
from jdnas.models.checkpoints.origin import ROI_BOX_WEIGHTS as _ROI_BOX_WEIGHTS
from jdnas.spec import DetectorSpec, FamilyTraits

_STEM, _STEM_MEAN = "backbone.stem.conv.weight", "backbone.stem.norm.running_mean"
_SAME = 1e-3  # of a pixel value in 0..255, over its deviation


def fold(tensors: dict[str, Tensor], origin: Origin, spec: DetectorSpec) -> tuple[dict[str, Tensor], list[str]]:
    """Return tensors that compute under our conventions what they computed under their origin's, and a line on each that differed."""
    tensors, notes, traits = dict(tensors), [], spec.traits
    if origin.image is not None:
        notes += _fold_image(tensors, origin.image, traits)
    if origin.norm_eps is not None and origin.norm_eps != traits.norm_eps:
        tensors = with_eps(tensors, theirs=origin.norm_eps, ours=traits.norm_eps)
        notes.append(f"batch norm epsilon {origin.norm_eps:g} made {traits.norm_eps:g} by scaling gammas")
    notes += _fold_deltas(tensors, origin)
    return tensors, notes


def _fold_image(tensors: dict[str, Tensor], image: InputFormat, traits: FamilyTraits) -> list[str]:
    """Fold (255 x - mean) / std, in BGR order perhaps, into a stem that reads (x - our mean) / our std in RGB order.

    A scaled channel scales the kernel. A shifted one shifts every output by a constant, which the running mean of the norm takes
    off again; only where the kernel reaches over the border, onto zeros, does the constant not hold.
    """
    weight = tensors[_STEM].double()
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (image.mean, image.std))
    if image.bgr:
        weight, mean, std = weight.flip(1), mean.flip(0), std.flip(0)
    our_mean, our_std = (255 * torch.tensor(values, dtype=torch.float64) for values in (traits.mean, traits.std))
    scale, shift = our_std / std, (our_mean - mean) / std
    notes = []
    if image.bgr or not torch.allclose(scale, torch.ones_like(scale), rtol=1e-6):
        tensors[_STEM] = (weight * scale[:, None, None]).float()
        notes.append(f"input ({image.describe()}) folded into the stem convolution")
    if float((shift * std).abs().max()) > _SAME:
        constant = (weight.sum((2, 3)) * shift).sum(1)
        tensors[_STEM_MEAN] = (tensors[_STEM_MEAN].double() - constant).float()
        notes.append("its mean differs from ours: taken into the stem's norm, exact except at the image's border")
    return notes


def with_eps(tensors: dict[str, Tensor], *, theirs: float, ours: float) -> dict[str, Tensor]:
    """Return tensors whose backbone norms compute with epsilon `ours` what they computed with `theirs`.

    Those of necks and heads have PyTorch's default in every project.
    """
    changed = dict(tensors)
    if theirs == ours:
        return changed
    for name in [name for name in tensors if name.startswith("backbone.") and name.endswith(".running_var")]:
        gamma, variance = name.replace("running_var", "weight"), tensors[name].double()
        changed[gamma] = (tensors[gamma].double() * ((variance + ours) / (variance + theirs).clamp(min=1e-30)).sqrt()).float()
    return changed


def _fold_deltas(tensors: dict[str, Tensor], origin: Origin) -> list[str]:
    ours_of = CASCADE_BOX_WEIGHTS if len(origin.roi_box_weights) > 1 else _ROI_BOX_WEIGHTS
    pairs = [("rpn.deltas", origin.rpn_box_weights, RPN_BOX_WEIGHTS)]
    heads = ["box_head", *(f"cascade.{index}" for index in range(len(ours_of) - 1))]
    pairs += [(f"{head}.box_deltas", theirs, ours) for head, theirs, ours in zip(heads, origin.roi_box_weights, ours_of, strict=True)]
    notes = []
    for layer, theirs, ours in pairs:
        if f"{layer}.weight" in tensors and any(abs(t - o) > 1e-6 * o for t, o in zip(theirs, ours, strict=True)):
            for part in ("weight", "bias"):
                tensors[f"{layer}.{part}"] = rescaled_deltas(tensors[f"{layer}.{part}"], theirs, ours)
            notes.append(f"{layer} rescaled from box factors {', '.join(f'{t:g}' for t in theirs)}")
    return notes
