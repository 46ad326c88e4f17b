"""Students that a search could come to, as specs without weights: what latency tables are measured for and validated on."""

import random

from jdnas.spec import DetectorSpec, Stage
from jdnas.student.actions import Action, ActionRules, prunable_widths, sample_action, with_widths
from jdnas.student.heads import HEAD_KINDS, head_size, with_head_size

_MOST_ACTIONS = 8
_LATEST_GENERATION = 20


def random_students(base: DetectorSpec, rules: ActionRules, count: int, seed: int) -> list[DetectorSpec]:
    """Return `count` different students of `base`, each some random legal actions away from it; same seed, same students."""
    rng, found = random.Random(seed), dict[DetectorSpec, None]()
    for _ in range(50 * count):
        if len(found) == count:
            break
        found[random_student(base, rules, rng)] = None
    return list(found)


def random_student(base: DetectorSpec, rules: ActionRules, rng: random.Random) -> DetectorSpec:
    """Return a student that is one to eight random legal actions away from `base`."""
    spec = base
    for _ in range(rng.randint(1, _MOST_ACTIONS)):
        action = sample_action(spec, rng, rng.randrange(_LATEST_GENERATION), rules)
        if action is not None:
            spec = after(spec, action, rules, rng)
    return spec


def after(spec: DetectorSpec, action: Action, rules: ActionRules, rng: random.Random) -> DetectorSpec:
    """Return what an action makes of a spec where chance takes the place of the weights' importance."""
    if action.kind == "prune_channels":
        return _pruned(spec, action.ratio, rules, rng)
    if action.kind in HEAD_KINDS:
        size = rules.smaller_head_size(action.kind, head_size(spec, action.kind), action.ratio)
        return spec if size is None else with_head_size(spec, action.kind, size)
    stages = list(spec.stages)
    if action.kind in ("prune_layer", "rearrange"):
        losing = [i for i in range(len(stages)) if rules.can_lose_block(spec, i)]
        source = action.stage if action.stage >= 0 else rng.choice(losing)
        stages[source] = Stage(stages[source].width, _without(stages[source].inner, rng))
    if action.kind in ("add_layer", "rearrange"):
        target = action.stage if action.kind == "add_layer" else action.target
        stages[target] = Stage(stages[target].width, (*stages[target].inner, stages[target].inner[-1]))
    for index, stage in enumerate(stages):
        spec = spec.with_stage(index, stage)
    return spec


def _pruned(spec: DetectorSpec, ratio: float, rules: ActionRules, rng: random.Random) -> DetectorSpec:
    widths = {}
    for name, width in prunable_widths(spec).items():
        narrow = round(width * (1 - rng.uniform(0, 2 * ratio)) / rules.width_step) * rules.width_step
        widths[name] = min(width, max(narrow, rules.min_width, rules.width_step))
    return with_widths(spec, widths)


def _without(inner: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
    gone = rng.randrange(1, len(inner))
    return (*inner[:gone], *inner[gone + 1 :])
