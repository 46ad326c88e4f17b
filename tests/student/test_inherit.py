import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jdnas.errors import ConfigError
from jdnas.models.complexity import multiply_adds, parameters
from jdnas.models.detector import build
from jdnas.models.weights import check_state
from jdnas.pipeline.exports import ExportOptions, export_model
from jdnas.spec import DetectorSpec, Stage
from jdnas.student.actions import ACTION_KINDS, Action, legal_actions, prunable_widths, sample_action
from jdnas.student.heads import HEAD_KINDS
from jdnas.student.inherit import carry_along, decide, evolve, transform
from jdnas.training.checkpoint import save_detector
from tests.models.specs import (
    QUICK,
    SIZE_HW,
    counted,
    loaded,
    outputs,
    plain_outputs,
    plain_spec,
    random_state,
    specs,
)
from tests.student.helpers import FAMILY_NAMES, FEW, HEAD_RULES, RULES, gradients


@pytest.mark.parametrize("family", FAMILY_NAMES)
@FEW
@given(st.integers(0, 99), st.data())
def test_every_action_gives_a_state_that_fits_and_trains(family: str, seed: int, data: st.DataObject) -> None:
    spec = data.draw(specs(families=(family,)))
    action = data.draw(st.sampled_from(legal_actions(spec, RULES)))
    state = random_state(spec)
    evolved, target = evolve(state, spec, action, RULES, seed=seed)
    check_state(evolved, target)
    assert target != spec
    elastic, plain = outputs(target, evolved), plain_outputs(loaded(target, evolved))
    assert all(torch.equal(a, b) for a, b in zip(elastic, plain, strict=True))
    found = gradients(target, evolved, seed)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert found.keys() == {name for name, _ in build(target, device="meta").named_parameters()}


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


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_fifty_actions_stay_in_the_legal_space(family: str) -> None:
    spec = plain_spec(family, width=16, depth=2)
    rules = replace(HEAD_RULES, width_step=4, min_width=4, max_depths=tuple(d + 1 for d in spec.depths))
    state, rng, kinds, widest = random_state(spec), random.Random(11), set(), max(prunable_widths(spec).values())
    for generation in range(50):
        action = sample_action(spec, rng, generation, rules)
        assert action is not None
        kinds.add(action.kind)
        state, spec = evolve(state, spec, action, rules, seed=generation)
        check_state(state, spec)
        assert all(1 <= depth <= 3 for depth in spec.depths)
        assert all(width % 4 == 0 and 4 <= width <= widest for width in prunable_widths(spec).values())
    assert kinds > set(ACTION_KINDS) and kinds & set(HEAD_KINDS)
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
def test_a_consumed_parent_gives_the_same_student(spec: DetectorSpec, data: st.DataObject) -> None:
    state = random_state(spec)
    decision = decide(state, spec, data.draw(st.sampled_from(legal_actions(spec, HEAD_RULES))), HEAD_RULES)
    copied, kept_whole = transform(state, decision), dict(state)
    consumed = transform(state, decision, consume=True)
    assert consumed.keys() == copied.keys()
    assert all(torch.equal(consumed[name], tensor) for name, tensor in copied.items())
    gone = kept_whole.keys() - state.keys()
    assert len(gone) > len(kept_whole) / 2
    owned = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    assert not any(tensor.numel() and tensor.untyped_storage().data_ptr() in owned for tensor in consumed.values())


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
    rules = replace(HEAD_RULES, width_step=4, min_width=4, max_depths=(3, 3, 2, 2))
    with pytest.raises(ConfigError, match=f"^{action.kind} is not legal .*{message}"):
        evolve(random_state(spec), spec, action, rules)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["resnext_4d", "mobilenet_v3"])
def test_students_of_many_actions_export(family: str, tmp_path: Path) -> None:
    """The engine is compared with PyTorch where it is made."""
    spec = plain_spec(family, width=16, depth=2)
    state, rng = random_state(spec), random.Random(5)
    rules = replace(HEAD_RULES, width_step=4, min_width=4)
    for generation in range(6):
        action = sample_action(spec, rng, generation, rules)
        assert action is not None
        state, spec = evolve(state, spec, action, rules, seed=generation)
    save_detector(tmp_path / "student", spec, state, {"size_hw": list(SIZE_HW)})
    (line,) = export_model(tmp_path / "student.safetensors", tmp_path / "student.onnx", ExportOptions())
    assert "batch 1" in line
