"""What the commands of the student print."""

from collections import Counter

from rich.table import Table

from jdnas.models.complexity import multiply_adds, parameters
from jdnas.models.detector import build
from jdnas.models.weights import State
from jdnas.sizes import SizeHW
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Action, ActionRules, kind_weights, legal_actions
from jdnas.student.explain import explain
from jdnas.student.heads import head_size
from jdnas.student.inherit import evolve


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
    size = head_size(spec, action.kind)
    return f"{size} to {rules.smaller_head_size(action.kind, size, action.ratio)}"


def actions_table(name: str, spec: DetectorSpec, rules: ActionRules, generation: int, size_hw: SizeHW) -> Table:
    """Return the legal actions of a spec and the chance of each at a generation."""
    legal = legal_actions(spec, rules)
    counts, weights = Counter(action.kind for action in legal), kind_weights(generation, rules)
    total = sum(weights[kind] for kind in counts)
    title = f"{name}: {multiply_adds(spec, size_hw) / 1e9:.1f} GMAC; {len(legal)} legal actions at generation {generation}"
    table = Table(title=title, title_justify="left")
    for column in ("kind", "what"):
        table.add_column(column)
    table.add_column("chance", justify="right")
    for action in legal:
        chance = 100 * weights[action.kind] / counts[action.kind] / total if total else 0.0
        table.add_row(action.kind, _what(action, spec, rules), f"{chance:.1f} %")
    return table


def applied(
    spec: DetectorSpec, state: State | None, action: Action, rules: ActionRules, seed: int, size_hw: SizeHW
) -> tuple[State, DetectorSpec, list[str]]:
    """Apply an action to weights (None: fresh ones) and return the student after it with the difference in words."""
    state, target = evolve(build(spec).state_dict() if state is None else state, spec, action, rules, seed=seed)
    cost = " -> ".join(f"{multiply_adds(s, size_hw) / 1e9:.2f} GMAC, {parameters(s) / 1e6:.2f} M parameters" for s in (spec, target))
    return state, target, [*explain(spec, target), cost]
