import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jdnas.errors import ConfigError
from jdnas.presets import NAMES, preset
from jdnas.spec import DetectorSpec
from jdnas.student.actions import (
    ACTION_KINDS,
    Action,
    ActionRules,
    group_width_of,
    kind_weights,
    legal_actions,
    prunable_widths,
    sample_action,
    with_widths,
)
from tests.models.specs import QUICK, plain_spec, specs


def _of_kind(spec: DetectorSpec, rules: ActionRules, kind: str) -> list[Action]:
    return [action for action in legal_actions(spec, rules) if action.kind == kind]


@pytest.mark.parametrize("action", legal_actions(preset("r50", 2), ActionRules())[::5])
def test_actions_survive_json(action: Action) -> None:
    assert Action.from_dict(json.loads(json.dumps(action.to_dict()))) == action


def test_malformed_actions_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="unknown action 'paint'; known: add_layer, prune_box_head, prune_candidates, prune_channels, .*, rearrange"
    ):
        Action.from_dict({"kind": "paint"})
    with pytest.raises(ConfigError, match="malformed action: .*colour"):
        Action.from_dict({"kind": "add_layer", "colour": 1})


@pytest.mark.parametrize("settings", [{"width_step": 0}, {"min_depth": 0}, {"prune_ratios": ()}, {"prune_ratios": (0.1, 1.0)}])
def test_impossible_rules_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        ActionRules(**settings)


@pytest.mark.parametrize("name", NAMES)
def test_presets_have_every_kind_of_action(name: str) -> None:
    spec = preset(name, 2)
    assert {action.kind for action in legal_actions(spec, ActionRules(max_depths=tuple(depth + 2 for depth in spec.depths)))} == set(
        ACTION_KINDS
    )


def test_only_the_first_block_of_a_stage_keeps_layers_from_going() -> None:
    rules = ActionRules(width_step=2, min_width=2)
    single = plain_spec("resnet_basic", depth=1)
    assert {a.kind for a in legal_actions(single, rules)} == {"prune_channels", "add_layer"}
    deep = single.with_stage(2, plain_spec("resnet_basic", depth=2).stages[2])
    assert _of_kind(deep, rules, "prune_layer") == [Action("prune_layer"), Action("prune_layer", stage=2)]
    assert _of_kind(deep, rules, "rearrange") == [Action("rearrange", stage=2, target=1), Action("rearrange", stage=2, target=3)]
    assert not _of_kind(deep, ActionRules(min_depth=2), "prune_layer")


def test_layers_move_between_neighbours_in_both_directions() -> None:
    rules = ActionRules()
    moves = {(a.stage, a.target) for a in _of_kind(plain_spec("efficientnet_lite", depth=2), rules, "rearrange")}
    assert moves == {(i, i + 1) for i in range(6)} | {(i + 1, i) for i in range(6)}


def test_depth_ceilings_hold() -> None:
    base = preset("r18", 2)
    assert not _of_kind(base, ActionRules(max_depths=base.depths), "add_layer")
    assert not _of_kind(base, ActionRules(max_depths=base.depths), "rearrange")
    rules = ActionRules(max_depths=(2, 3, 2, 2))
    assert _of_kind(base, rules, "add_layer") == [Action("add_layer", stage=1)]
    assert {a.target for a in _of_kind(base, rules, "rearrange")} == {1}


def test_channels_are_pruned_only_where_a_step_is_left() -> None:
    rules = ActionRules(width_step=4, min_width=4)
    assert not _of_kind(plain_spec("resnet_basic", width=4), rules, "prune_channels")
    assert [a.ratio for a in _of_kind(plain_spec("resnet_basic", width=8), rules, "prune_channels")] == list(rules.prune_ratios)


@pytest.mark.parametrize(
    ("width", "step", "floor", "lower"),
    [(64, 8, 8, 56), (16, 8, 8, 8), (8, 8, 8, None), (20, 8, 8, 16), (24, 8, 20, None), (32, 32, 8, None), (3, 1, 1, 2), (9, 8, 1, 8)],
)
def test_the_next_narrower_width(width: int, step: int, floor: int, lower: int | None) -> None:
    assert ActionRules(width_step=step, min_width=floor).narrower(width) == lower


def test_groups_go_as_a_whole() -> None:
    rules = ActionRules(width_step=8, min_width=8)
    assert [rules.narrower(width, 16) for width in (64, 32, 16)] == [48, 16, None]
    assert rules.narrower(64, 12) == 48
    spec = plain_spec("resnext_4d", width=8)
    assert [group_width_of(spec, width) for width in ("s0.b1", "s3.b0", "s3", "stem")] == [4, 32, 1, 1]


@QUICK
@given(specs())
def test_replacing_widths_by_themselves_changes_nothing(spec: DetectorSpec) -> None:
    assert with_widths(spec, prunable_widths(spec)) == spec


@QUICK
@given(specs(), st.data())
def test_every_prunable_width_can_be_set_alone(spec: DetectorSpec, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(prunable_widths(spec))))
    new = 17 * group_width_of(spec, name)
    changed = with_widths(spec, {name: new})
    assert prunable_widths(changed) == {**prunable_widths(spec), name: new}
    assert changed.depths == spec.depths


def test_unknown_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown width 's0.b0'; known: s0, s0.b1, .*stem"):
        with_widths(plain_spec("efficientnet_lite"), {"s0.b0": 8})


def _counts(generation: int) -> Counter[str]:
    spec, rng = preset("r18", 2), random.Random(5)
    actions = [sample_action(spec, rng, generation, ActionRules()) for _ in range(2000)]
    return Counter(action.kind for action in actions if action is not None)


def test_channel_pruning_leads_early_and_no_kind_leads_late() -> None:
    early, late = _counts(0), _counts(1000)
    assert early["prune_channels"] / 2000 == pytest.approx(0.7, abs=0.04)
    assert all(late[kind] / 2000 == pytest.approx(0.25, abs=0.04) for kind in ACTION_KINDS)


def test_preferences_blend_linearly() -> None:
    rules = ActionRules(blend_generations=10)
    assert kind_weights(5, rules)["prune_channels"] == pytest.approx((0.7 + 0.25) / 2)
    assert kind_weights(0, rules) == dict(zip(ACTION_KINDS, rules.early, strict=True))
    assert kind_weights(99, rules) == dict(zip(ACTION_KINDS, rules.late, strict=True))


@QUICK
@given(specs(), st.integers(0, 40), st.integers(0, 999))
def test_sampling_is_repeatable_and_legal(spec: DetectorSpec, generation: int, seed: int) -> None:
    rules = ActionRules(width_step=2, min_width=2, max_depths=tuple(d + 1 for d in spec.depths))
    first = sample_action(spec, random.Random(seed), generation, rules)
    assert first == sample_action(spec, random.Random(seed), generation, rules)
    assert first in legal_actions(spec, rules)


def test_nothing_legal_samples_nothing() -> None:
    spec = plain_spec("resnet_basic", width=8, depth=1)
    assert sample_action(spec, random.Random(0), 0, ActionRules(max_depths=(1, 1, 1, 1))) is None
