"""Actions from outside: drawn by their weight, decided by their own function, named in settings."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jdnas.config import resolve
from jdnas.errors import ConfigError
from jdnas.models.weights import State, check_state, same_places
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Action, ActionRules, ExtraAction, legal_actions, sample_action
from jdnas.student.inherit import Decision, evolve
from tests.models.specs import plain_spec, random_state


def legal(spec: DetectorSpec, rules: ActionRules) -> Iterable[Action]:
    if spec.neck > 2:
        yield Action("halve_neck")


def decide(state: State, spec: DetectorSpec, action: Action, rules: ActionRules, seed: int) -> Decision:
    kept = tuple(range(spec.neck // 2))
    return Decision(spec, replace(spec, neck=spec.neck // 2), same_places(spec), kept={"neck": kept, "neck.merged": kept})


HALVE_NECK = ExtraAction("halve_neck", 0.5, legal, decide)
RULES = ActionRules(width_step=2, min_width=2, extra=(HALVE_NECK,))


def test_an_extra_action_is_legal_drawn_and_decided() -> None:
    spec = plain_spec("resnet_basic")
    assert Action("halve_neck") in legal_actions(spec, RULES)
    rng = random.Random(0)
    drawn = Counter(action.kind for _ in range(3000) if (action := sample_action(spec, rng, 0, RULES)))
    assert drawn["halve_neck"] / 3000 == pytest.approx(0.5 / 1.5, abs=0.03)  # the backbone's kinds weigh 1 together
    state = random_state(spec)
    smaller, target = evolve(state, spec, Action.from_dict(Action("halve_neck").to_dict(), RULES.extra), RULES)
    check_state(smaller, target)
    assert target.neck == 3 and torch.equal(smaller["fpn.lateral.0.weight"], state["fpn.lateral.0.weight"][:3])
    assert Action("halve_neck") not in legal_actions(replace(target, neck=2), RULES)


def test_it_is_unknown_where_the_rules_have_none() -> None:
    with pytest.raises(ConfigError, match="unknown action 'halve_neck'"):
        Action.from_dict({"kind": "halve_neck"})


@pytest.mark.parametrize(("kind", "weight"), [("add_layer", 1.0), ("prune_neck", 1.0), ("mine", -1.0)])
def test_impossible_actions_are_refused(kind: str, weight: float) -> None:
    with pytest.raises(ConfigError, match="a kind of its own and a weight of 0 or more"):
        ExtraAction(kind, weight, legal, decide)


def test_settings_name_it_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_actions.py").write_text(
        "from jdnas.student.actions import ExtraAction\nMINE = ExtraAction('mine', 1.0, None, None)\nNO = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    base = plain_spec("resnet_basic")

    def rules(name: str) -> ActionRules:
        return resolve("quick", {"student": {"extra_actions": [name]}}).action_rules(base)

    assert [one.kind for one in rules("my_actions:MINE").extra] == ["mine"]
    for name in ("my_actions:OTHER", "no_such_module:MINE", "my_actions", ":"):
        with pytest.raises(ConfigError, match="cannot be imported .* MODULE:NAME"):
            rules(name)
    with pytest.raises(ConfigError, match="'my_actions:NO' is a int, not a jdnas.student.actions.ExtraAction"):
        rules("my_actions:NO")
