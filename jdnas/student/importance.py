"""Which channels and blocks of a student matter least (Joint-DetNAS, section 3.3)."""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from jdnas.models.weights import Place, State, axes_of, block_prefix, widths_of
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Importance

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


def _telling(values: Tensor) -> Tensor | None:
    """Return magnitudes; None where they tell channels no better than chance: non-finite or all equal."""
    magnitudes = values.detach().abs().double().cpu()
    if not bool(magnitudes.isfinite().all()) or bool(magnitudes.max() == magnitudes.min()):
        return None
    return magnitudes


def _relative(values: Tensor) -> Tensor | None:
    """Return magnitudes over their mean; None where they tell nothing."""
    magnitudes = _telling(values)
    return None if magnitudes is None else magnitudes / magnitudes.mean()


def _per_channel(magnitudes: Tensor, width: int) -> Tensor:
    """Average the magnitudes of the entries that belong to one channel of a named axis, such as a whole group."""
    return magnitudes.detach().abs().double().reshape(width, -1).mean(1)


def _averaged(spec: DetectorSpec, found: list[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Average the magnitudes of each axis, in units of the mean over all channels; those of an axis without any are worth that mean."""
    widths = widths_of(spec)
    groups: dict[str, list[Tensor]] = {axis: [] for axis, _ in _norms(spec)}
    unit = torch.cat([scores for _, scores in found]).mean() if found else 1.0
    for axis, scores in found:
        groups[axis].append(scores / unit)
    return {
        axis: torch.stack(scores).mean(0) if scores else torch.ones(widths[axis], dtype=torch.float64) for axis, scores in groups.items()
    }


def _gamma_scores(state: State, spec: DetectorSpec) -> list[tuple[str, Tensor]]:
    widths = widths_of(spec)
    scored = ((axis, _telling(_per_channel(state[f"{norm}.weight"], widths[axis]))) for axis, norm in _norms(spec))
    return [(axis, scores) for axis, scores in scored if scores is not None]


def _weight_scores(state: State, spec: DetectorSpec) -> list[tuple[str, Tensor]]:
    widths = widths_of(spec)
    writers = ((axis, state[f"{norm.removesuffix('.norm')}.conv.weight"]) for axis, norm in _norms(spec))
    scored = ((axis, _relative(_per_channel(weight.flatten(1).abs().mean(1), widths[axis]))) for axis, weight in writers)
    return [(axis, scores) for axis, scores in scored if scores is not None]


def _read(state: State, spec: DetectorSpec) -> dict[str, Tensor]:
    """Return how much is read of the channels of each axis: weight magnitudes relative to their layer's mean, averaged over layers."""
    found: dict[str, list[Tensor]] = {}
    for name, axes in axes_of(spec).items():
        axis = axes[1] if len(axes) > 1 else None
        if axis is not None:
            magnitudes = state[name].detach().abs().double().cpu().transpose(0, 1).flatten(1).mean(1)
            relative = _relative(_per_channel(magnitudes, axis.width))
            if relative is not None:
                found.setdefault(axis.name, []).append(relative)
    return {axis: torch.stack(scores).mean(0) for axis, scores in found.items()}


def channel_scores(state: State, spec: DetectorSpec, importance: Importance = "gamma") -> dict[str, Tensor]:
    """Return the importance of every channel (every whole group, in grouped axes) of every prunable axis: float64 `[width]`.

    Network slimming's |gamma| (Liu et al. 2017), in units of its mean over all channels. An axis that several norms write (residual
    outputs and downsample paths, expansion and depthwise) gets the mean over its norms, not their sum, so that wide groups are neither
    spared nor sought. Dividing each norm's gammas by their own mean, as dependency-graph pruners do, was tried and is worse
    (docs/pruning.md). Norms of equal gammas, such as those of a new identity block, do not vote.

    `contribution` multiplies that by the weights that read a channel: a norm says how large its output is, they say what becomes of it.

    Where no norm at all tells channels apart, for instance after folding, the L1 norm of the convolution weights that write a
    channel takes the place of |gamma|, with a UserWarning.
    """
    found = _gamma_scores(state, spec)
    if not found:
        warnings.warn("norm weights are all equal or not finite: channels are ranked by the L1 norm of their weights", stacklevel=2)
        found = _weight_scores(state, spec)
    scores = _averaged(spec, found)
    if importance == "gamma":
        return scores
    read = _read(state, spec)
    return {axis: score * read[axis] if axis in read and len(read[axis]) == len(score) else score for axis, score in scores.items()}


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
