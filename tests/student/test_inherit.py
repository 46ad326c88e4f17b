import math
import random
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jdnas.errors import ConfigError
from jdnas.models.complexity import multiply_adds, parameters
from jdnas.models.detector import build
from jdnas.models.weights import State, axes_of, check_state, shapes_of
from jdnas.presets import preset
from jdnas.spec import FAMILIES, DetectorSpec, Stage
from jdnas.student.actions import Action, ActionRules, group_width_of, legal_actions, prunable_widths, sample_action
from jdnas.student.importance import block_scores, channel_scores, prunable_axes
from jdnas.student.inherit import carry_along, decide, evolve, transform
from tests.models.specs import (
    QUICK,
    SIZE_HW,
    counted,
    images,
    largest_difference,
    loaded,
    outputs,
    plain_outputs,
    plain_spec,
    random_state,
    specs,
)

FAMILY_NAMES = sorted(FAMILIES)
RULES = ActionRules(width_step=2, min_width=2)


def _gradients(spec: DetectorSpec, state: State, seed: int) -> State:
    """Compute the losses and go back from them; return the gradients by name."""
    detector = loaded(spec, state).train()
    truth = SimpleNamespace(
        boxes_xyxy=torch.tensor([[[4.0, 4.0, 40.0, 36.0]], [[20.0, 10.0, 90.0, 60.0]]]),
        labels=torch.ones(2, 1, dtype=torch.int64),
        valid=torch.ones(2, 1, dtype=torch.bool),
    )
    sizes = torch.tensor([SIZE_HW, SIZE_HW])
    output = detector.losses(images(seed=seed), sizes, truth, torch.Generator().manual_seed(seed))
    loss = torch.stack(list(output.terms.values())).sum()
    loss.backward()
    assert loss.isfinite()
    return {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}


def _silence_channels(state: State, spec: DetectorSpec, axis: str, channels: Sequence[int]) -> None:
    """Zero gamma and beta of some channels (of whole groups, in grouped axes) in every norm that writes them."""
    for name, axes in axes_of(spec).items():
        if name.endswith(("norm.weight", "norm.bias")) and axes[0] is not None and axes[0].name == axis:
            state[name].view(axes[0].width, -1)[list(channels)] = 0


def _units(spec: DetectorSpec) -> dict[str, int]:
    """Return the channels that one step of pruning takes off each prunable width."""
    return {width: math.lcm(RULES.width_step, group_width_of(spec, width)) for width in prunable_widths(spec)}


@QUICK
@given(specs(), st.integers(0, 99), st.data())
def test_every_action_gives_a_state_that_fits_and_trains(spec: DetectorSpec, seed: int, data: st.DataObject) -> None:
    action = data.draw(st.sampled_from(legal_actions(spec, RULES)))
    state = random_state(spec)
    evolved, target = evolve(state, spec, action, RULES, seed=seed)
    check_state(evolved, target)
    assert target != spec
    elastic, plain = outputs(target, evolved), plain_outputs(loaded(target, evolved))
    assert all(torch.equal(a, b) for a, b in zip(elastic, plain, strict=True))
    gradients = _gradients(target, evolved, seed)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert gradients.keys() == {name for name, _ in build(target, device="meta").named_parameters()}


@QUICK
@given(specs(), st.data())
def test_added_layers_keep_the_function(spec: DetectorSpec, data: st.DataObject) -> None:
    stage = data.draw(st.integers(0, len(spec.stages) - 1))
    position = data.draw(st.sampled_from([-1, *range(1, spec.stages[stage].depth + 1)]))
    state = random_state(spec)
    evolved, target = evolve(state, spec, Action("add_layer", stage=stage, position=position), RULES)
    assert target.depths[stage] == spec.depths[stage] + 1
    assert sorted(target.stages[stage].inner) == sorted((*spec.stages[stage].inner, spec.stages[stage].inner[-1]))
    assert largest_difference(outputs(target, evolved), outputs(spec, state)) < 1e-5


@QUICK
@given(specs(widths=(4, 6, 8)), st.data())
def test_pruning_dead_channels_keeps_the_function(spec: DetectorSpec, data: st.DataObject) -> None:
    state = random_state(spec)
    axes, widths, units = prunable_axes(spec), prunable_widths(spec), _units(spec)
    prunable = sorted(width for width in widths if widths[width] > units[width])
    dead = data.draw(st.lists(st.sampled_from(prunable), min_size=1, max_size=3, unique=True))
    for width in dead:
        group = group_width_of(spec, width)
        for axis in axes[width]:
            _silence_channels(state, spec, axis, data.draw(st.permutations(range(widths[width] // group)))[: units[width] // group])
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
    units = _units(spec)
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


def test_widths_off_the_step_are_rounded_down_to_it() -> None:
    spec = plain_spec("resnet_bottleneck", width=13, depth=1)
    target = decide(random_state(spec), spec, Action("prune_channels", ratio=0.9), ActionRules(width_step=4, min_width=8)).target
    assert set(prunable_widths(target).values()) == {8}


def test_a_bottleneck_keeps_one_inner_width() -> None:
    spec = plain_spec("resnet_bottleneck", width=8, depth=2)
    state = random_state(spec)
    _silence_channels(state, spec, "s1.b1.a", [4, 5, 6, 7])
    decision = decide(state, spec, Action("prune_channels", ratio=0.02), RULES)
    assert decision.kept.keys() == {"s1.b1.a", "s1.b1.b"}
    assert set(decision.kept["s1.b1.a"]) > {0, 1, 2, 3}
    assert decision.target.stages[1].inner == (8, 6)


@QUICK
@given(specs(), st.data())
def test_costs_fall_by_what_complexity_predicts(spec: DetectorSpec, data: st.DataObject) -> None:
    shrinking = [a for a in legal_actions(spec, RULES) if a.kind in ("prune_channels", "prune_layer")]
    if not shrinking:
        return
    state = random_state(spec)
    evolved, target = evolve(state, spec, data.draw(st.sampled_from(shrinking)), RULES)
    assert multiply_adds(target, SIZE_HW) < multiply_adds(spec, SIZE_HW)
    detector = loaded(target, evolved)
    assert sum(counted(detector, SIZE_HW).values()) == multiply_adds(target, SIZE_HW)
    assert sum(p.numel() for p in detector.parameters()) == parameters(target)


def _with_inner(spec: DetectorSpec, index: int, inner: tuple[int, ...], width: int = 4) -> DetectorSpec:
    """Return `spec` with a stage of these widths; in grouped families the inner ones count half groups."""
    half = (spec.traits.group_widths[index] or 2) // 2
    squeeze = (3,) * len(inner) if spec.traits.squeezed[index] else ()
    return spec.with_stage(index, Stage(width, tuple(half * w for w in inner), squeeze))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_least_important_layer_goes_and_later_ones_move_up(family: str) -> None:
    spec = _with_inner(plain_spec(family, depth=3), 1, (4, 6, 8))
    first, second, third = spec.stages[1].inner
    state = random_state(spec)
    for name, tensor in state.items():
        if name.startswith("backbone.stages.1.1.") and name.endswith("conv.weight"):
            tensor *= 0.01
    assert min(block_scores(state, spec).items(), key=lambda item: item[1])[0] == (1, 1)
    for action in (Action("prune_layer"), Action("prune_layer", stage=1)):
        evolved, target = evolve(state, spec, action, RULES)
        assert target.stages[1].inner == (first, third)
        for name in shapes_of(target):
            source = name.replace("backbone.stages.1.1.", "backbone.stages.1.2.")
            assert torch.equal(evolved[name], state[source])
    assert evolve(state, spec, Action("prune_layer", stage=1, position=2), RULES)[1].stages[1].inner == (first, second)
    assert evolve(state, spec, Action("prune_layer", stage=2), RULES)[1].depths[:3] == (3, 3, 2)


def _neighbours(family: str) -> list[tuple[int, int]]:
    return [(i, j) for i in range(4) for j in (i - 1, i + 1) if 0 <= j < len(FAMILIES[family].strides)]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_rearranged_layer_leaves_no_trace_but_its_absence(family: str) -> None:
    """The target stage computes what it did, so the student equals the one whose layer was pruned."""
    spec = plain_spec(family, width=4, depth=2)
    spec = _with_inner(_with_inner(spec, 1, (4, 8), width=6), 2, (6, 2), width=8)
    state = random_state(spec)
    for stage, target_stage in _neighbours(family):
        pruned, smaller = evolve(state, spec, Action("prune_layer", stage=stage), RULES)
        moved, target = evolve(state, spec, Action("rearrange", stage=stage, target=target_stage), RULES)
        assert sum(target.depths) == sum(spec.depths)
        assert target.depths[stage] == spec.depths[stage] - 1
        assert target.depths[target_stage] == spec.depths[target_stage] + 1
        assert largest_difference(outputs(target, moved), outputs(smaller, pruned)) < 1e-5


def test_a_rearranged_layer_keeps_its_overlapping_slices() -> None:
    spec = plain_spec("resnet_bottleneck", width=4, depth=2).with_stage(1, Stage(8, (6, 6)))
    state = random_state(spec)
    up, _ = evolve(state, spec, Action("rearrange", stage=0, target=1), RULES)
    old, new = "backbone.stages.0.1.", "backbone.stages.1.1."
    assert torch.equal(up[f"{new}conv1.conv.weight"][:4, :4], state[f"{old}conv1.conv.weight"])
    assert torch.equal(up[f"{new}conv2.norm.weight"][:4], state[f"{old}conv2.norm.weight"])
    assert up[f"{new}conv1.conv.weight"][4:].any(), "the rest must be able to learn"
    assert not up[f"{new}conv3.norm.weight"].any()
    # The block that was second in the target stage comes after the new one.
    assert torch.equal(up["backbone.stages.1.2.conv2.conv.weight"], state["backbone.stages.1.1.conv2.conv.weight"])
    down, _ = evolve(state, spec, Action("rearrange", stage=1, target=0), RULES)
    assert torch.equal(down["backbone.stages.0.2.conv2.conv.weight"], state["backbone.stages.1.1.conv2.conv.weight"][:4, :4])


def test_kernels_of_other_sizes_are_inherited_by_their_centres() -> None:
    spec = plain_spec("efficientnet_lite", width=4, depth=2)
    assert spec.traits.kernels[1:3] == (3, 5)
    state, name = random_state(spec), "1.depthwise.conv.weight"
    up, _ = evolve(state, spec, Action("rearrange", stage=1, target=2), RULES)
    kernel = up[f"backbone.stages.2.{name}"]
    assert torch.equal(kernel[:, :, 1:4, 1:4], state[f"backbone.stages.1.{name}"])
    assert kernel.abs().sum() == pytest.approx(state[f"backbone.stages.1.{name}"].abs().sum())
    down, _ = evolve(state, spec, Action("rearrange", stage=2, target=1), RULES)
    assert torch.equal(down["backbone.stages.1.2.depthwise.conv.weight"], state[f"backbone.stages.2.{name}"][:, :, 1:4, 1:4])


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_fifty_actions_stay_in_the_legal_space(family: str) -> None:
    spec = plain_spec(family, width=16, depth=2)
    rules = ActionRules(width_step=4, min_width=4, max_depths=tuple(d + 1 for d in spec.depths))
    state, rng, kinds, widest = random_state(spec), random.Random(11), set(), max(prunable_widths(spec).values())
    for generation in range(50):
        action = sample_action(spec, rng, generation, rules)
        assert action is not None
        kinds.add(action.kind)
        state, spec = evolve(state, spec, action, rules, seed=generation)
        check_state(state, spec)
        assert all(1 <= depth <= 3 for depth in spec.depths)
        assert all(width % 4 == 0 and 4 <= width <= widest for width in prunable_widths(spec).values())
    assert len(kinds) == 4
    assert all(level.isfinite().all() for level in outputs(spec, state))


@settings(QUICK, max_examples=6)
@given(specs(), st.data())
def test_equal_seeds_give_equal_students_and_leave_the_parent_alone(spec: DetectorSpec, data: st.DataObject) -> None:
    action = data.draw(st.sampled_from(legal_actions(spec, RULES)))
    state = random_state(spec)
    before = {name: tensor.clone() for name, tensor in state.items()}
    first, target = evolve(state, spec, action, RULES, seed=4)
    torch.rand(7)
    second, same = evolve(state, spec, action, RULES, seed=4)
    assert same == target
    assert all(torch.equal(first[name], second[name]) for name in first)
    for tensor in first.values():
        tensor.fill_(3)
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


@settings(QUICK, max_examples=6)
@given(specs(), st.data())
def test_momentum_and_averages_are_carried_along(spec: DetectorSpec, data: st.DataObject) -> None:
    action = data.draw(st.sampled_from(legal_actions(spec, RULES)))
    state = random_state(spec)
    decision = decide(state, spec, action, RULES)
    evolved = transform(state, decision)
    # A "momentum" equal to the weights must end where the weights do.
    momentum = {name: state[name] for name, _ in loaded(spec, state).named_parameters()}
    carried = carry_along(momentum, decision)
    new_block = f"backbone.stages.{action.stage if action.kind == 'add_layer' else action.target}."
    for name, _ in loaded(decision.target, evolved).named_parameters():
        if name in carried:
            assert torch.equal(carried[name], evolved[name])
        else:
            assert action.kind in ("add_layer", "rearrange")
            assert name.startswith(new_block)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (Action("prune_layer", stage=0), "no block of stage 0 at position -1 may be removed"),
        (Action("prune_layer", stage=1, position=0), "no block of stage 1 at position 0"),
        (Action("prune_layer", stage=9), "there is no stage 9"),
        (Action("add_layer"), "there is no stage -1"),
        (Action("add_layer", stage=1, position=0), r"position 0 of stage 1 is not in 1\.\.2"),
        (Action("add_layer", stage=2), "stage 2 is at its maximum depth"),
        (Action("rearrange", stage=1, target=3), "stages 1 and 3 are no neighbours"),
        (Action("rearrange", stage=0, target=1), "no block of stage 0"),
        (Action("rearrange", stage=1, target=2), "stage 2 is at its maximum depth"),
        (Action("prune_channels"), "ratio 0.0 is not between 0 and 1"),
        (Action("prune_channels", ratio=0.1), "every width is at its minimum of 4 channels"),
    ],
)
def test_illegal_actions_say_why(action: Action, message: str) -> None:
    spec = plain_spec("resnet_basic", width=4, depth=2).with_stage(0, Stage(4, (4,)))
    rules = ActionRules(width_step=4, min_width=4, max_depths=(3, 3, 2, 2))
    with pytest.raises(ConfigError, match=f"^{action.kind} is not legal .*{message}"):
        evolve(random_state(spec), spec, action, rules)


def test_an_r18_loses_its_share_of_channels() -> None:
    spec = preset("r18", 3)
    target = decide(random_state(spec), spec, Action("prune_channels", ratio=0.1), ActionRules()).target
    before, after = sum(prunable_widths(spec).values()), sum(prunable_widths(target).values())
    assert 1 - after / before == pytest.approx(0.1, abs=4 / before)
