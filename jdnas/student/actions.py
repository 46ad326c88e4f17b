"""The student's action space (Joint-DetNAS, section 3.1.2, Figure 3): what may be done to a spec, and which action to try.

Nothing here touches weights; `jdnas.student.inherit` applies an action to a detector.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from jdnas.errors import ConfigError, unknown_name
from jdnas.spec import DetectorSpec
from jdnas.student.heads import HEAD_KINDS, HeadKind, head_size

if TYPE_CHECKING:  # looks at weights
    from jdnas.student.inherit import Decide

BackboneKind = Literal["prune_layer", "prune_channels", "add_layer", "rearrange"]
ACTION_KINDS: tuple[BackboneKind, ...] = get_args(BackboneKind)
Importance = Literal["gamma", "contribution"]  # what channels are ranked by: `jdnas.student.importance.channel_scores`


@dataclass(frozen=True, slots=True)
class Action:
    """One change of a student; -1 leaves a choice open.

    prune_layer: the block of `stage` (-1: of any stage) at `position` (-1: the least important one). prune_channels: the
    share `ratio` of all prunable channels. add_layer: an identity block in `stage` at `position` (-1: after the last).
    rearrange: the block of `stage` at `position` (-1: the least important one) moves to the neighbour stage `target`.
    The kinds of `jdnas.student.heads` take the share `ratio` off one width or count of the neck, RPN or box head. Further kinds are
    those of `ExtraAction`.
    """

    kind: str
    stage: int = -1
    target: int = -1
    position: int = -1
    ratio: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any], extra: "Iterable[ExtraAction]" = ()) -> "Action":
        """Read what `to_dict` wrote, of the known kinds and the `extra` ones; a ConfigError says what does not fit."""
        known = (*ACTION_KINDS, *HEAD_KINDS, *(one.kind for one in extra))
        if data.get("kind") not in known:
            raise ConfigError(unknown_name("action", str(data.get("kind")), known))
        try:
            return Action(**data)
        except TypeError as error:
            raise ConfigError(f"malformed action: {error}") from error


@dataclass(frozen=True, slots=True)
class ExtraAction:
    """A kind of action that jdnas does not bring.

    `weight` is how likely it is drawn, where those of the backbone kinds sum to 1. `legal` gives its legal actions on a spec; `decide`
    says what one does to a student, and may look at the weights (see `jdnas.student.inherit.decide`).
    """

    kind: str
    weight: float
    legal: Callable[[DetectorSpec, "ActionRules"], Iterable[Action]]
    decide: "Decide"

    def __post_init__(self) -> None:
        if self.kind in (*ACTION_KINDS, *HEAD_KINDS) or self.weight < 0:
            raise ConfigError(f"an extra action needs a kind of its own and a weight of 0 or more, got {self.kind!r} and {self.weight:g}")


@dataclass(frozen=True, slots=True)
class ActionRules:
    """Which actions are legal and how likely each kind is.

    Widths are pruned to multiples of `width_step` channels, never below `min_width`. `max_depths` has one entry per stage
    (None: no ceiling). `early` and `late` weigh the kinds in the order of `ACTION_KINDS`; the weights move linearly from
    `early` at generation 0 to `late` at generation `blend_generations`, since channel pruning gains most in early
    generations and the finer actions in later ones (Joint-DetNAS, Figure 6). A generation is one accepted candidate.

    A channel pruning takes no more than the share `max_width_loss` of a width while others can give: the narrow layers at the input
    would lose half of their channels first, and all that follows reads those. `importance` ranks the channels (`channel_scores`).

    `heads` makes the actions on neck and heads legal, which the paper has not; one of them is drawn with probability `head_weight`,
    and takes one of the shares `head_ratios`. `min_proposals` is the floor of proposals and candidates. `pays`, where given, maps a
    width to the widest one up to it that a device has full use of; pruned widths snap to it (`latency.plateaus`). `extra` kinds are legal
    where they say so.
    """

    width_step: int = 8
    min_width: int = 8
    min_depth: int = 1
    max_depths: tuple[int, ...] | None = None
    prune_ratios: tuple[float, ...] = (0.05, 0.1)
    max_width_loss: float = 1.0
    importance: Importance = "gamma"
    early: tuple[float, float, float, float] = (0.1, 0.7, 0.1, 0.1)
    late: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 0.25)
    blend_generations: int = 20
    heads: bool = False
    head_ratios: tuple[float, ...] = (0.125, 0.25)
    head_weight: float = 0.3
    min_proposals: int = 32
    pays: Callable[[int], int] | None = None
    extra: tuple[ExtraAction, ...] = ()

    def __post_init__(self) -> None:
        if min(self.width_step, self.min_width, self.min_depth, self.blend_generations) < 1:
            raise ConfigError("width_step, min_width, min_depth and blend_generations must be at least 1")
        for name, ratios in (("prune_ratios", self.prune_ratios), ("head_ratios", self.head_ratios)):
            if not ratios or not all(0 < ratio < 1 for ratio in ratios):
                raise ConfigError(f"{name} must lie between 0 and 1, got {ratios}")
        if not 0 <= self.head_weight < 1 or self.min_proposals < 1:
            raise ConfigError(f"head_weight must be in 0..1 and min_proposals at least 1, got {self.head_weight}, {self.min_proposals}")

    def can_lose_block(self, spec: DetectorSpec, stage: int) -> bool:
        """Tell whether a block of `stage` may go; a stage's first block always stays."""
        return spec.stages[stage].depth > self.min_depth

    def can_gain_block(self, spec: DetectorSpec, stage: int) -> bool:
        """Tell whether `stage` may get one more block."""
        return self.max_depths is None or spec.stages[stage].depth < self.max_depths[stage]

    def narrower(self, width: int, group_width: int = 1) -> int | None:
        """Return the next width below `width` that keeps groups of `group_width` whole, or None at the floor."""
        step = math.lcm(self.width_step, group_width)
        lower = (width - 1) // step * step
        if self.pays is not None:
            lower = self.pays(lower) // step * step
        return lower if lower >= max(self.min_width, step) else None

    def smaller_head_size(self, kind: HeadKind, size: int, ratio: float = 0.0) -> int | None:
        """Return what `size` becomes when an action takes `ratio` off it, at least one step; None where it is at its floor."""
        floor = max(self.width_step, self.min_proposals if kind in ("prune_proposals", "prune_candidates") else self.min_width)
        step = self.width_step
        lower, floor = (size - 1) // step * step, -(-floor // step) * step
        return None if lower < floor else max(floor, min(lower, round(size * (1 - ratio) / step) * step))


def prunable_widths(spec: DetectorSpec) -> dict[str, int]:
    """Return the independent backbone widths of a spec: `s2` is the output of stage 2 and `s2.b1` the inner width of its block 1.

    `tail` is the convolution after the last stage. A stem that is tied to another width is not listed, and neither are widths of
    squeeze-and-excitation, whose channels have no norm to rank them by.
    """
    widths = {} if spec.traits.tied_stem else {"stem": spec.stem}
    if spec.tail:
        widths["tail"] = spec.tail
    for i, stage in enumerate(spec.stages):
        widths[f"s{i}"] = stage.width
        inner = {f"s{i}.b{j}": width for j, width in enumerate(stage.inner)}
        if i == 0 and spec.traits.first_block_unexpanded:
            del inner["s0.b0"]
        widths.update(inner)
    return widths


def group_width_of(spec: DetectorSpec, width: str) -> int:
    """Return how many channels of one of the `prunable_widths` go together: those of a group of a grouped convolution, or 1."""
    stage, _, block = width.partition(".")
    return spec.traits.group_widths[int(stage[1:])] or 1 if block else 1


def with_widths(spec: DetectorSpec, widths: Mapping[str, int]) -> DetectorSpec:
    """Return `spec` with some of its `prunable_widths` replaced; tied widths follow."""
    unknown = set(widths) - set(prunable_widths(spec))
    if unknown:
        raise ConfigError(unknown_name("width", min(unknown), prunable_widths(spec)))
    stages = tuple(
        replace(stage, width=widths.get(f"s{i}", stage.width), inner=tuple(widths.get(f"s{i}.b{j}", w) for j, w in enumerate(stage.inner)))
        for i, stage in enumerate(spec.stages)
    )
    return replace(spec.with_stages(stages, stem=widths.get("stem", spec.stem)), tail=widths.get("tail", spec.tail))


def _legal(spec: DetectorSpec, rules: ActionRules) -> Iterator[Action]:
    count = len(spec.stages)
    shrinkable = [i for i in range(count) if rules.can_lose_block(spec, i)]
    growable = [i for i in range(count) if rules.can_gain_block(spec, i)]
    if shrinkable:
        yield Action("prune_layer")
    for stage in shrinkable:
        yield Action("prune_layer", stage=stage)
    if any(rules.narrower(width, group_width_of(spec, name)) for name, width in prunable_widths(spec).items()):
        for ratio in rules.prune_ratios:
            yield Action("prune_channels", ratio=ratio)
    for stage in growable:
        yield Action("add_layer", stage=stage)
    for stage in shrinkable:
        for target in (stage - 1, stage + 1):
            if target in growable:
                yield Action("rearrange", stage=stage, target=target)
    for kind in HEAD_KINDS if rules.heads else ():
        if rules.smaller_head_size(kind, head_size(spec, kind)) is not None:
            for ratio in rules.head_ratios:
                yield Action(kind, ratio=ratio)
    for one in rules.extra:
        yield from one.legal(spec, rules)


def legal_actions(spec: DetectorSpec, rules: ActionRules) -> list[Action]:
    """Return all legal actions; which block or channel goes is left to its importance."""
    return list(_legal(spec, rules))


def kind_weights(generation: int, rules: ActionRules) -> dict[str, float]:
    """Return how likely each kind of action is at a generation."""
    late = min(max(generation / rules.blend_generations, 0.0), 1.0)
    heads = rules.head_weight if rules.heads else 0.0
    backbone = zip(ACTION_KINDS, rules.early, rules.late, strict=True)
    weights: dict[str, float] = {kind: (1 - heads) * ((1 - late) * a + late * b) for kind, a, b in backbone}
    weights |= {kind: heads / len(HEAD_KINDS) for kind in HEAD_KINDS if heads}
    return weights | {one.kind: one.weight for one in rules.extra}


def sample_action(spec: DetectorSpec, rng: random.Random, generation: int, rules: ActionRules) -> Action | None:
    """Draw a kind by its weight among those that are legal now, then one of its actions; None if nothing is legal."""
    by_kind: dict[str, list[Action]] = {}
    for action in _legal(spec, rules):
        by_kind.setdefault(action.kind, []).append(action)
    weights = {kind: weight for kind, weight in kind_weights(generation, rules).items() if kind in by_kind and weight > 0}
    if not weights:
        return None
    kind = rng.choices(list(weights), list(weights.values()))[0]
    return rng.choice(by_kind[kind])
