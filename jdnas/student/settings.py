"""Settings of the student's actions."""

import importlib
from typing import Annotated

from pydantic import Field

from jdnas.errors import ConfigError
from jdnas.settings import Settings
from jdnas.spec import DetectorSpec
from jdnas.student.actions import ActionRules, ExtraAction, Importance


class StudentSettings(Settings):
    """Student actions: step and floor of widths, ratios of a channel pruning action, depth range around the base.

    `heads` adds the actions on neck, RPN and box head, which the paper has not: shares of `head_ratios`, drawn with probability
    `head_weight`, with a floor of `min_proposals` proposals and candidates. `inherit_optimizer`: a candidate goes on with its
    parent's optimizer state where shapes allow, instead of starting it anew. `snap_widths`: widths are pruned to those that the target
    has full use of, which its latency table tells.

    `importance`: which channels go, by |gamma| alone (the paper) or times the weights that read them. `max_width_loss`: the share of
    a width that one action takes before all others have lost as much. `bn_images`: after an action, norms get the statistics of so many
    training images before training begins; 0 keeps the parent's. `extra_actions`: further kinds, as MODULE:NAME of an `ExtraAction` that
    Python can import.
    """

    width_step: int | None = Field(None, ge=1, description="None: that of the target's precision, 8 or for int8 32")
    min_width: int = Field(8, ge=1)
    prune_ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field((0.05, 0.1), min_length=1)
    importance: Importance = "contribution"
    max_width_loss: float = Field(0.3, gt=0, le=1)
    bn_images: int = Field(64, ge=0)
    extra_depth: int = Field(2, ge=0)
    max_cost_ratio: float = Field(0.97, gt=0, description="the student that leaves costs at most this share of the base")
    inherit_optimizer: bool = False
    snap_widths: bool = False
    heads: bool = False
    head_ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field((0.125, 0.25), min_length=1)
    head_weight: float = Field(0.3, ge=0, lt=1)
    min_proposals: int = Field(32, ge=1)
    extra_actions: tuple[str, ...] = ()

    def rules(self, base: DetectorSpec, *, width_step: int = 8) -> ActionRules:
        """Return the rules of student actions around a base; `width_step` counts where the settings have none."""
        return ActionRules(
            width_step=self.width_step or width_step, min_width=self.min_width, prune_ratios=self.prune_ratios, heads=self.heads,
            head_ratios=self.head_ratios, head_weight=self.head_weight, min_proposals=self.min_proposals,
            max_width_loss=self.max_width_loss, importance=self.importance,
            max_depths=tuple(depth + self.extra_depth for depth in base.depths), extra=tuple(map(extra_action, self.extra_actions)),
        )  # fmt: skip


def extra_action(place: str) -> ExtraAction:
    """Import the action that MODULE:NAME names; a ConfigError says why there is none."""
    module, _, name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"extra action {place!r} cannot be imported ({error}); it is written MODULE:NAME, of a module on the Python path"
        ) from error
    if not isinstance(found, ExtraAction):
        raise ConfigError(f"extra action {place!r} is a {type(found).__name__}, not a jdnas.student.actions.ExtraAction")
    return found
