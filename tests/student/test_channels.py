from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jdnas.presets import preset
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Action, ActionRules, group_width_of, prunable_widths
from jdnas.student.importance import channel_scores, prunable_axes
from jdnas.student.inherit import decide, evolve, transform
from tests.models.specs import (
    QUICK,
    largest_difference,
    outputs,
    plain_spec,
    random_state,
    specs,
)
from tests.student.helpers import FAMILY_NAMES, FEW, RULES, silence_channels, width_steps


@pytest.mark.parametrize("family", FAMILY_NAMES)
@FEW
@given(st.data())
def test_pruning_dead_channels_keeps_the_function(family: str, data: st.DataObject) -> None:
    spec = data.draw(specs(widths=(4, 6, 8), families=(family,)))
    state = random_state(spec)
    axes, widths, units = prunable_axes(spec), prunable_widths(spec), width_steps(spec)
    prunable = sorted(width for width in widths if widths[width] > units[width])
    dead = data.draw(st.lists(st.sampled_from(prunable), min_size=1, max_size=3, unique=True))
    for width in dead:
        group = group_width_of(spec, width)
        for axis in axes[width]:
            silence_channels(state, spec, axis, data.draw(st.permutations(range(widths[width] // group)))[: units[width] // group])
    total = sum(widths[width] * len(group) for width, group in axes.items())
    ratio = sum(units[width] * len(axes[width]) for width in dead) / total
    evolved, target = evolve(state, spec, Action("prune_channels", ratio=ratio), RULES)
    assert prunable_widths(target) == {width: size - units[width] * (width in dead) for width, size in widths.items()}
    assert largest_difference(outputs(target, evolved), outputs(spec, state)) < 1e-5


@QUICK
@given(specs(widths=(6, 8, 12, 16), max_depth=2), st.floats(0.03, 0.6))
def test_the_share_of_channels_is_met_as_well_as_steps_allow(spec: DetectorSpec, ratio: float) -> None:
    state, axes = random_state(spec), prunable_axes(spec)
    decision = decide(state, spec, Action("prune_channels", ratio=ratio), RULES)
    before, after = prunable_widths(spec), prunable_widths(decision.target)
    total = sum(before[width] * len(group) for width, group in axes.items())
    removed = sum((before[width] - after[width]) * len(group) for width, group in axes.items())
    units = width_steps(spec)
    largest_unit = max(units[width] * len(group) for width, group in axes.items())
    removable = sum((before[width] - units[width]) * len(group) for width, group in axes.items())
    assert abs(removed - min(ratio * total, removable)) <= largest_unit
    assert all(after[width] % 2 == 0 and after[width] >= 2 for width in after)
    for axis, kept in decision.kept.items():
        assert list(kept) == sorted(set(kept)), "channels that stay keep their order"
        scores = channel_scores(state, spec)[axis]
        gone = [c for c in range(len(scores)) if c not in kept]
        assert scores[gone].max() <= scores[list(kept)].min()


def test_the_least_important_channels_of_all_axes_go_first() -> None:
    spec = plain_spec("resnet_basic", width=8, depth=1)
    state = random_state(spec)
    state["backbone.stages.2.0.conv1.norm.weight"] = torch.tensor([1.0, 0.01, 1.1, 1.2, 0.02, 1.3, 1.4, 1.5])
    state["backbone.stages.3.0.conv1.norm.weight"] = torch.tensor([1.0, 1.01, 1.1, 0.1, 0.2, 1.3, 1.4, 1.5])
    one = decide(state, spec, Action("prune_channels", ratio=0.001), RULES)
    assert one.kept == {"s2.b0": (0, 2, 3, 5, 6, 7)}
    two = decide(state, spec, Action("prune_channels", ratio=4 / 64), RULES)
    assert two.kept == {"s2.b0": (0, 2, 3, 5, 6, 7), "s3.b0": (0, 1, 2, 5, 6, 7)}
    evolved = transform(state, two)
    name = "backbone.stages.2.0.conv2.conv.weight"
    assert torch.equal(evolved[name], state[name][:, [0, 2, 3, 5, 6, 7]])


def test_a_width_loses_no_more_than_its_share_while_others_can_give() -> None:
    spec = plain_spec("resnet_basic", width=8, depth=1)
    state = random_state(spec)
    weak = torch.tensor([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 9.0, 9.0])
    state["backbone.stages.2.0.conv1.norm.weight"] = weak
    free = decide(state, spec, Action("prune_channels", ratio=6 / 64), RULES).target
    assert prunable_widths(free)["s2.b0"] == 2
    held = decide(state, spec, Action("prune_channels", ratio=6 / 64), replace(RULES, max_width_loss=0.3)).target
    lost = {width: 8 - size for width, size in prunable_widths(held).items() if size < 8}
    assert lost.pop("s2.b0") == 2 and set(lost.values()) == {2} and len(lost) == 2
    most = decide(state, spec, Action("prune_channels", ratio=0.7), replace(RULES, max_width_loss=0.3)).target
    assert sum(prunable_widths(most).values()) < 0.45 * 64  # beyond its share where nothing else is left


def test_widths_off_the_step_are_rounded_down_to_it() -> None:
    spec = plain_spec("resnet_bottleneck", width=13, depth=1)
    target = decide(random_state(spec), spec, Action("prune_channels", ratio=0.9), ActionRules(width_step=4, min_width=8)).target
    assert set(prunable_widths(target).values()) == {8}


def test_a_bottleneck_keeps_one_inner_width() -> None:
    spec = plain_spec("resnet_bottleneck", width=8, depth=2)
    state = random_state(spec)
    silence_channels(state, spec, "s1.b1.a", [4, 5, 6, 7])
    decision = decide(state, spec, Action("prune_channels", ratio=0.02), RULES)
    assert decision.kept.keys() == {"s1.b1.a", "s1.b1.b"}
    assert set(decision.kept["s1.b1.a"]) > {0, 1, 2, 3}
    assert decision.target.stages[1].inner == (8, 6)


def test_an_r18_loses_its_share_of_channels() -> None:
    spec = preset("r18", 3)
    target = decide(random_state(spec), spec, Action("prune_channels", ratio=0.1), ActionRules()).target
    before, after = sum(prunable_widths(spec).values()), sum(prunable_widths(target).values())
    assert 1 - after / before == pytest.approx(0.1, abs=4 / before)
