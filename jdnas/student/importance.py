"""Which channels and blocks of a student matter least (Joint-DetNAS, section 3.3)."""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from jdnas.models.weights import Place, State, axes_of, block_prefix, widths_of
from jdnas.spec import DetectorSpec

_STATISTIC = ".running_mean"


def _norms(spec: DetectorSpec) -> Iterator[tuple[str, str]]:
    """Yield axis name and prefix of every norm of the backbone."""
    for name, axes in axes_of(spec).items():
        if name.startswith("backbone.") and name.endswith(_STATISTIC) and axes[0] is not None:
            yield axes[0].name, name.removesuffix(_STATISTIC)


def prunable_gammas(spec: DetectorSpec) -> list[str]:
    """Return the names of the norm weights that rank prunable channels: what the sparsity penalty is for."""
    return [f"{norm}.weight" for _, norm in _norms(spec)]


def prunable_axes(spec: DetectorSpec) -> dict[str, tuple[str, ...]]:
    """Return, for every width of `jdnas.student.actions.prunable_widths`, the named axes that have it.

    The inner width of a bottleneck without groups belongs to two axes, all others to one.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for axis in dict.fromkeys(axis for axis, _ in _norms(spec)):
        width = axis.removesuffix(".a").removesuffix(".b")
        axes[width] = (*axes.get(width, ()), axis)
    return axes


def _relative(values: Tensor) -> Tensor | None:
    """Divide magnitudes by their mean; None where they tell channels no better than chance: non-finite, all equal or all zero."""
    magnitudes = values.detach().abs().double().cpu()
    if not bool(magnitudes.isfinite().all()):
        return None
    if bool(magnitudes.max() == magnitudes.min()):
        return None
    mean = magnitudes.mean()
    return magnitudes / mean if mean > 0 else None


def _per_channel(magnitudes: Tensor, width: int) -> Tensor:
    """Average the magnitudes of the entries that belong to one channel of a named axis, such as a whole group."""
    return magnitudes.detach().abs().double().reshape(width, -1).mean(1)


def _averaged(spec: DetectorSpec, found: list[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Average the relative magnitudes of each axis; channels of an axis without any are worth 1, the average."""
    widths = widths_of(spec)
    groups: dict[str, list[Tensor]] = {axis: [] for axis, _ in _norms(spec)}
    for axis, scores in found:
        groups[axis].append(scores)
    return {
        axis: torch.stack(scores).mean(0) if scores else torch.ones(widths[axis], dtype=torch.float64) for axis, scores in groups.items()
    }


def _gamma_scores(state: State, spec: DetectorSpec) -> list[tuple[str, Tensor]]:
    widths = widths_of(spec)
    scored = ((axis, _relative(_per_channel(state[f"{norm}.weight"], widths[axis]))) for axis, norm in _norms(spec))
    return [(axis, scores) for axis, scores in scored if scores is not None]


def _weight_scores(state: State, spec: DetectorSpec) -> list[tuple[str, Tensor]]:
    widths = widths_of(spec)
    writers = ((axis, state[f"{norm.removesuffix('.norm')}.conv.weight"]) for axis, norm in _norms(spec))
    scored = ((axis, _relative(_per_channel(weight.flatten(1).abs().mean(1), widths[axis]))) for axis, weight in writers)
    return [(axis, scores) for axis, scores in scored if scores is not None]


def channel_scores(state: State, spec: DetectorSpec) -> dict[str, Tensor]:
    """Return the importance of every channel (every whole group, in grouped axes) of every prunable axis: float64 `[width]`, mean 1.

    Network slimming's |gamma| (Liu et al. 2017), with two choices for a ranking over all axes. The gammas of a norm are divided
    by their mean, because their scale says as much about the layer after it as about its channels; and an axis that several norms
    write (residual outputs and downsample paths, expansion and depthwise) gets the mean over its norms, not their sum, so that
    wide groups are neither spared nor sought. Norms of equal gammas, such as those of a new identity block, do not vote.

    Where no norm at all tells channels apart, for instance after folding, the L1 norm of the convolution weights that write a
    channel takes the place of |gamma|, with a UserWarning.
    """
    found = _gamma_scores(state, spec)
    if not found:
        warnings.warn("norm weights are all equal or not finite: channels are ranked by the L1 norm of their weights", stacklevel=2)
        found = _weight_scores(state, spec)
    return _averaged(spec, found)


def writer_scores(state: State, spec: DetectorSpec, axis: str) -> Tensor:
    """Return the importance of the channels of any named axis by the weights that write them: float64 `[width]`, 1 on average.

    For layers without a norm (neck, RPN, box head): each channel's mean weight magnitude, relative to its layer's mean, averaged over
    the layers that write the axis. All channels count 1 where no layer tells them apart.
    """
    width, found = 0, []
    for name, axes in axes_of(spec).items():
        if len(axes) > 1 and axes[0] is not None and axes[0].name == axis:
            width = axes[0].width
            found.append(_relative(state[name].detach().flatten(1).abs().double().mean(1).view(width, -1).mean(1)))
    votes = [scores for scores in found if scores is not None]
    return torch.stack(votes).mean(0) if votes else torch.ones(width, dtype=torch.float64)


def block_scores(state: State, spec: DetectorSpec) -> dict[Place, float]:
    """Return the importance of every block that may be removed, which is all but the first of each stage.

    The mean L1 norm of its convolution weights; each tensor's mean is scaled by the root of the inputs it sums over, so that blocks
    of stages of different widths compare.
    """
    scores: dict[Place, float] = {}
    for i, depth in enumerate(spec.depths):
        for j in range(1, depth):
            prefix = block_prefix((i, j))
            weights = [w.detach() for name, w in state.items() if name.startswith(prefix) and name.endswith(".conv.weight")]
            scores[i, j] = sum(float(torch.linalg.vector_norm(w.float(), 1)) / w.numel() * w[0].numel() ** 0.5 for w in weights) / len(
                weights
            )
    return scores
