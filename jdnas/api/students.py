"""Functions on architectures: subnets of a pool, actions of a student, differences in words."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdnas.api.detectors import PAPER_SIZE, spec_of
from jdnas.api.settings import Settings, run_config
from jdnas.config import RunConfig
from jdnas.models.complexity import multiply_adds, parameters
from jdnas.models.detector import build
from jdnas.models.weights import State
from jdnas.pipeline.context import base_spec_of
from jdnas.pipeline.weights import open_weights
from jdnas.sizes import SizeHW, size_hw_from_text
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Action, ActionRules, kind_weights, legal_actions, sample_action
from jdnas.student.explain import explain as difference
from jdnas.student.heads import HEAD_KINDS, head_size
from jdnas.student.inherit import evolve
from jdnas.teacher.space import SubnetSpace, make_space

PathLike = str | Path
_CLASSES = 80


def pool_space(
    *, base: str | None = None, preset: PathLike | None = None, settings: Settings | None = None, classes: int = _CLASSES
) -> tuple[SubnetSpace, RunConfig]:  # fmt: skip
    """Return the space of subnets that a run's teacher pool would have, and the settings that it follows from."""
    config = run_config({"base": base}, preset=preset, settings=settings)
    return make_space(base_spec_of(config, classes, config.model.anchor_reference), config.pool), config


def explain(before: PathLike, after: PathLike, *, classes: int = _CLASSES) -> list[str]:
    """Say in words what differs between the architectures of two bases or weight files."""
    return difference(spec_of(before, classes=classes), spec_of(after, classes=classes))


@dataclass(frozen=True, slots=True)
class Choice:
    """A legal action, what it does, and how likely it is to be drawn."""

    action: Action
    what: str
    chance: float


def student_actions(
    student: PathLike, *, generation: int = 0, target: str | None = None, preset: PathLike | None = None, settings: Settings | None = None,
    classes: int = _CLASSES,
) -> list[Choice]:  # fmt: skip
    """Return the legal actions of a student; `generation` is how many candidates were accepted before, which preferences follow from."""
    spec = spec_of(student, classes=classes)
    rules = run_config({"target": target}, preset=preset, settings=settings).action_rules(spec)
    legal = legal_actions(spec, rules)
    weights = kind_weights(generation, rules)
    counts = {kind: sum(action.kind == kind for action in legal) for kind in {action.kind for action in legal}}
    total = sum(weights[kind] for kind in counts)
    return [
        Choice(action, _what(action, spec, rules), weights[action.kind] / counts[action.kind] / total if total else 0.0) for action in legal
    ]


def _what(action: Action, spec: DetectorSpec, rules: ActionRules) -> str:
    if action.kind == "prune_layer":
        where = "the whole backbone" if action.stage == -1 else f"stage {action.stage} ({spec.depths[action.stage]} blocks)"
        return f"the least important block of {where}"
    if action.kind == "prune_channels":
        return f"{100 * action.ratio:g} % of the backbone's channels"
    if action.kind == "add_layer":
        return f"an identity block after stage {action.stage}'s last ({spec.depths[action.stage]} blocks)"
    if action.kind == "rearrange":
        return f"the least important block of stage {action.stage} to stage {action.target}"
    if action.kind not in HEAD_KINDS:
        return f"stage {action.stage}" if action.stage != -1 else ""
    size = head_size(spec, action.kind)
    return f"{size} to {rules.smaller_head_size(action.kind, size, action.ratio)}"


def sample_actions(
    student: PathLike, *, count: int = 1, apply: bool = False, generation: int = 0, target: str | None = None,
    preset: PathLike | None = None, settings: Settings | None = None, seed: int = 0, classes: int = _CLASSES, size: str = PAPER_SIZE,
) -> Iterator[tuple[dict[str, Any], list[str]]]:  # fmt: skip
    """Draw actions with the paper's preferences, until none is legal; yield each with what it does in words.

    With `apply`, each is applied to the student that the one before it left. Which channels or block go is decided by the weights:
    those of a weight file, else freshly drawn ones. Without `apply` the words are empty.
    """
    spec, state = weights_of(student, classes=classes)
    rules = run_config({"target": target}, preset=preset, settings=settings).action_rules(spec)
    rng, size_hw = random.Random(seed), size_hw_from_text(size)
    for number in range(count):
        action = sample_action(spec, rng, generation + number * apply, rules)
        if action is None:
            return
        words: list[str] = []
        if apply:
            before, start = spec, build(spec).state_dict() if state is None else state
            state, spec = evolve(start, before, action, rules, seed=seed + number)
            words = [*difference(before, spec), _cost(before, spec, size_hw)]
        yield action.to_dict(), words


def _cost(before: DetectorSpec, after: DetectorSpec, size_hw: SizeHW) -> str:
    return " -> ".join(f"{multiply_adds(s, size_hw) / 1e9:.2f} GMAC, {parameters(s) / 1e6:.2f} M parameters" for s in (before, after))


def weights_of(name: PathLike, *, classes: int = _CLASSES) -> tuple[DetectorSpec, State | None]:
    """Return the architecture of a base or weight file, and the weights where a file has them."""
    if Path(name).suffix in ("", ".json"):
        return spec_of(name, classes=classes), None
    read = open_weights(Path(name))
    return read.spec, read.state
