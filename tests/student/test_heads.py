import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jdnas.errors import ConfigError
from jdnas.models.complexity import multiply_adds, per_part
from jdnas.models.detector import build
from jdnas.models.weights import State, axes_of, check_state, widths_of
from jdnas.presets import preset
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Action, ActionRules, kind_weights, legal_actions, sample_action
from jdnas.student.heads import HEAD_KINDS, HeadKind, head_size, with_head_size
from jdnas.student.importance import writer_scores
from jdnas.student.inherit import carry_along, decide, evolve, transform
from tests.models.specs import QUICK, SIZE_HW, counted, largest_difference, loaded, outputs, plain_spec, random_state, specs
from tests.student.helpers import HEAD_RULES, RULES, gradients


def test_heads_are_left_alone_unless_the_rules_say_so() -> None:
    spec = preset("r18", 2)
    assert not {action.kind for action in legal_actions(spec, ActionRules())} & set(HEAD_KINDS)
    legal = legal_actions(spec, ActionRules(heads=True))
    assert [a for a in legal if a.kind not in HEAD_KINDS] == legal_actions(spec, ActionRules())
    assert {a.kind for a in legal} > set(HEAD_KINDS)
    with pytest.raises(ConfigError, match="actions on heads are off"):
        decide({}, spec, Action("prune_neck", ratio=0.25), ActionRules())


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_one_size_of_the_spec_changes(kind: HeadKind) -> None:
    spec = preset("r18", 2)
    changed = with_head_size(spec, kind, 40)
    assert head_size(changed, kind) == 40
    assert all(head_size(changed, other) == head_size(spec, other) for other in HEAD_KINDS if other != kind)
    assert (changed.stages, changed.head.train_proposals) == (spec.stages, spec.head.train_proposals)


@pytest.mark.parametrize(
    ("kind", "size", "ratio", "smaller"),
    [
        ("prune_neck", 256, 0.125, 224), ("prune_box_head", 1024, 0.25, 768), ("prune_rpn", 16, 0.125, 8), ("prune_rpn", 8, 0.5, None),
        ("prune_proposals", 1000, 0.25, 752), ("prune_proposals", 40, 0.5, 32), ("prune_candidates", 32, 0.5, None),
        ("prune_neck", 20, 0.01, 16), ("prune_neck", 64, 0.99, 8),
    ],
)  # fmt: skip
def test_sizes_fall_by_steps_to_a_floor(kind: HeadKind, size: int, ratio: float, smaller: int | None) -> None:
    assert ActionRules().smaller_head_size(kind, size, ratio) == smaller


def test_one_head_action_in_so_many_is_drawn() -> None:
    spec, rng, rules = preset("r18", 2), random.Random(3), ActionRules(heads=True, head_weight=0.4)
    assert sum(kind_weights(7, rules).values()) == pytest.approx(1)
    drawn = [sample_action(spec, rng, 0, rules) for _ in range(2000)]
    assert sum(a.kind in HEAD_KINDS for a in drawn if a) / 2000 == pytest.approx(0.4, abs=0.04)


@QUICK
@given(specs(), st.sampled_from(HEAD_KINDS), st.sampled_from((0.25, 0.5)), st.integers(0, 99))
def test_a_smaller_head_fits_trains_and_costs_less(spec: DetectorSpec, kind: HeadKind, ratio: float, seed: int) -> None:
    action = Action(kind, ratio=ratio)
    if action not in legal_actions(spec, HEAD_RULES):
        return
    state = random_state(spec)
    evolved, target = evolve(state, spec, action, HEAD_RULES)
    check_state(evolved, target)
    assert head_size(target, kind) < head_size(spec, kind)
    detector = loaded(target, evolved)
    assert sum(counted(detector, SIZE_HW).values()) == multiply_adds(target, SIZE_HW) <= multiply_adds(spec, SIZE_HW)
    found = gradients(target, evolved, seed)
    assert found.keys() == {name for name, _ in build(target, device="meta").named_parameters()}
    assert all(gradient.isfinite().all() for gradient in found.values())


def _silence(state: State, spec: DetectorSpec, axis: str, channels: list[int]) -> None:
    """Zero all that writes some channels."""
    for name, axes in axes_of(spec).items():
        if axes and axes[0] is not None and axes[0].name == axis:
            state[name][channels] = 0


@QUICK
@given(specs(widths=(4, 6, 8)), st.sampled_from(("prune_neck", "prune_box_head", "prune_rpn")), st.data())
def test_pruning_channels_that_say_nothing_keeps_the_function(spec: DetectorSpec, kind: HeadKind, data: st.DataObject) -> None:
    state, size = random_state(spec), head_size(spec, kind)
    before, after = widths_of(spec), widths_of(with_head_size(spec, kind, size - 2, step=HEAD_RULES.width_step))
    for axis in [axis for axis in before if after[axis] < before[axis]]:
        _silence(state, spec, axis, data.draw(st.permutations(range(before[axis])))[: before[axis] - after[axis]])
    evolved, target = evolve(state, spec, Action(kind, ratio=0.01), HEAD_RULES)
    assert head_size(target, kind) == size - 2
    was, now = outputs(spec, state), outputs(target, evolved)
    if kind == "prune_neck":  # the maps themselves lose channels; what is read from them must not change
        was, now = was[-4:], now[-4:]
    assert largest_difference(now, was) < 1e-5


def test_channels_with_the_smallest_weights_go() -> None:
    spec = plain_spec("resnet_basic", width=8)
    state = random_state(spec)
    state["rpn.conv.weight"][[1, 4]] *= 0.01
    assert decide(state, spec, Action("prune_rpn", ratio=0.3), HEAD_RULES).kept == {"rpn": (0, 2, 3, 5)}
    assert writer_scores(state, spec, "rpn").mean().item() == pytest.approx(1)
    state["rpn.conv.weight"].fill_(0.5)
    assert writer_scores(state, spec, "rpn").eq(1).all()


def test_convolutions_of_the_box_head_shrink_alike() -> None:
    spec = plain_spec("resnet_basic")
    spec = replace(spec, head=replace(spec.head, convs=(8, 6), fcs=1))
    state = random_state(spec)
    evolved, target = evolve(state, spec, Action("prune_box_head", ratio=0.5), HEAD_RULES)
    assert (target.head.width, target.head.convs) == (6, (4, 4))
    check_state(evolved, target)
    assert with_head_size(spec, "prune_box_head", 6, step=4).head.convs == (4, 4)


def test_fewer_proposals_change_no_weight() -> None:
    spec = plain_spec("resnet_bottleneck")
    state = random_state(spec)
    for kind in ("prune_proposals", "prune_candidates"):
        decision = decide(state, spec, Action(kind, ratio=0.5), HEAD_RULES)
        assert not decision.kept
        assert all(torch.equal(tensor, state[name]) for name, tensor in transform(state, decision).items())
    fewer = decide(state, spec, Action("prune_proposals", ratio=0.5), HEAD_RULES).target
    assert per_part(fewer, SIZE_HW)["roi"] * 2 == per_part(spec, SIZE_HW)["roi"]


def test_momentum_of_heads_is_carried_along() -> None:
    spec = plain_spec("efficientnet_lite", width=8)
    state = random_state(spec)
    decision = decide(state, spec, Action("prune_neck", ratio=0.5), HEAD_RULES)
    evolved, carried = transform(state, decision), carry_along(state, decision)
    assert all(torch.equal(carried[name], tensor) for name, tensor in evolved.items())


def test_floors_are_reported() -> None:
    spec = replace(plain_spec("resnet_basic"), neck=2)
    with pytest.raises(ConfigError, match="prune_neck is not legal .*2 is its minimum"):
        decide(random_state(spec), spec, Action("prune_neck", ratio=0.5), HEAD_RULES)
    with pytest.raises(ConfigError, match="ratio 0.0 is not between 0 and 1"):
        decide(random_state(spec), spec, Action("prune_rpn"), HEAD_RULES)
    assert RULES.heads is False
