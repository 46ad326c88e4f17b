import warnings

import pytest
import torch
from hypothesis import given

from jdnas.models.weights import State, shapes_of
from jdnas.spec import FAMILIES, DetectorSpec, Stage
from jdnas.student.actions import group_width_of, prunable_widths
from jdnas.student.importance import block_scores, channel_scores, prunable_axes, prunable_gammas
from tests.models.specs import QUICK, plain_spec, random_state, specs


def _with_equal_gammas(spec: DetectorSpec) -> State:
    state = random_state(spec)
    for name in prunable_gammas(spec):
        state[name].fill_(1.0)
    return state


@QUICK
@given(specs())
def test_penalized_gammas_are_those_of_the_backbone(spec: DetectorSpec) -> None:
    names = prunable_gammas(spec)
    assert len(names) == len(set(names))
    assert set(names) == {name for name in shapes_of(spec) if name.startswith("backbone.") and name.endswith("norm.weight")}


@QUICK
@given(specs())
def test_prunable_axes_are_the_prunable_widths_of_the_spec(spec: DetectorSpec) -> None:
    axes, widths = prunable_axes(spec), prunable_widths(spec)
    assert axes.keys() == widths.keys()
    scores = channel_scores(random_state(spec), spec)
    assert {axis for group in axes.values() for axis in group} == scores.keys()
    assert all(len(scores[axis]) * group_width_of(spec, width) == widths[width] for width, group in axes.items() for axis in group)
    two_axes = spec.traits.block == "bottleneck" and not any(spec.traits.group_widths)
    assert {len(group) for width, group in axes.items() if ".b" in width} == {2 if two_axes else 1}


def _with_gammas(spec: DetectorSpec, gammas: dict[str, list[float]]) -> State:
    """Return a state in which only the named norms of the backbone tell channels apart."""
    state = _with_equal_gammas(spec)
    for norm, values in gammas.items():
        state[f"backbone.{norm}.norm.weight"] = torch.tensor(values)
    return state


def test_scores_worked_by_hand() -> None:
    spec = plain_spec("resnet_basic", width=2, depth=1)
    gammas = {"stages.1.0.conv1": [3.0, -1.0], "stages.1.0.conv2": [1.0, 3.0], "stages.1.0.shortcut": [50.0, 50.0]}
    scores = channel_scores(_with_gammas(spec, gammas), spec)
    assert scores["s1.b0"].tolist() == [1.5, 0.5]  # in units of the mean of 3, 1, 1 and 3
    assert scores["s1"].tolist() == [0.5, 1.5], "a norm of equal gammas must not vote"
    assert scores["s2"].tolist() == [1.0, 1.0], "an axis whose norms do not vote is worth the mean"
    scores = channel_scores(_with_gammas(spec, gammas | {"stages.1.0.shortcut": [30.0, 10.0]}), spec)
    assert scores["s1"].tolist() == [15.5 / 8, 6.5 / 8], "the mean over the norms, not their sum"


def test_contributions_worked_by_hand() -> None:
    spec = plain_spec("resnet_basic", width=2, depth=1)
    state = _with_gammas(spec, {"stages.1.0.conv1": [3.0, -1.0]})
    weight = state["backbone.stages.1.0.conv2.conv.weight"]  # alone reads what conv1 writes
    weight[:, 0], weight[:, 1] = 0.5, -1.5
    scores = channel_scores(state, spec, "contribution")
    assert scores["s1.b0"].tolist() == [1.5 * 0.5, 0.5 * 1.5]
    weight[:, 1] = 0.0
    assert channel_scores(state, spec, "contribution")["s1.b0"].tolist() == [1.5 * 2, 0.0], "what nobody reads is worth nothing"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_contributions_of_all_axes(family: str) -> None:
    spec = plain_spec(family, width=8, depth=2)
    state = random_state(spec)
    gamma, contribution = (channel_scores(state, spec, kind) for kind in ("gamma", "contribution"))
    assert gamma.keys() == contribution.keys()
    assert all(len(gamma[axis]) == len(contribution[axis]) for axis in gamma)
    assert all(scores.isfinite().all() and (scores >= 0).all() for scores in contribution.values())
    differ = {axis for axis in gamma if not torch.equal(gamma[axis], contribution[axis])}
    assert differ == {axis for axis in gamma if len(gamma[axis]) > 1}, "something reads every axis"


@QUICK
@given(specs())
def test_scores_are_one_on_average_over_all_votes(spec: DetectorSpec) -> None:
    state = random_state(spec)
    scores = channel_scores(state, spec)
    for name in prunable_gammas(spec):
        state[name] *= 3
    assert all(torch.allclose(scores[axis], other) for axis, other in channel_scores(state, spec).items()), "the unit must not count"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_wide_axes_and_axes_of_many_norms_are_not_favoured(family: str) -> None:
    spec = plain_spec(family, depth=3).with_stage(1, Stage(64, (64, 64, 64)))
    state = random_state(spec)
    for name in prunable_gammas(spec):
        state[name] = torch.rand(state[name].shape, generator=torch.Generator().manual_seed(1)) + 0.5
    for scores in channel_scores(state, spec).values():
        assert len(scores) < 8 or scores.mean().item() == pytest.approx(1.0, abs=0.35)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_unusable_gammas_fall_back_to_weights_with_a_warning(family: str) -> None:
    spec = plain_spec(family, width=32)
    state, group = _with_equal_gammas(spec), group_width_of(spec, "s1.b1")
    layer = "expand" if spec.traits.block == "mbconv" else "conv1"
    state[f"backbone.stages.1.1.{layer}.conv.weight"][group : 2 * group] *= 0.01
    with pytest.warns(UserWarning, match="ranked by the L1 norm"):
        scores = channel_scores(state, spec)
    assert scores[prunable_axes(spec)["s1.b1"][0]].argmin() == 1


def test_gammas_that_are_not_finite_do_not_vote() -> None:
    spec = plain_spec("resnet_basic")
    state = random_state(spec)
    state["backbone.stages.2.1.conv1.norm.weight"][1] = float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = channel_scores(state, spec)
    assert scores["s2.b1"].eq(1).all()
    assert all(s.isfinite().all() for s in scores.values())


@QUICK
@given(specs())
def test_every_block_but_the_first_of_a_stage_has_a_score(spec: DetectorSpec) -> None:
    scores = block_scores(random_state(spec), spec)
    assert scores.keys() == {(i, j) for i, depth in enumerate(spec.depths) for j in range(1, depth)}
    assert all(score > 0 for score in scores.values())


def test_small_weights_make_a_block_unimportant() -> None:
    spec = plain_spec("resnet_bottleneck", depth=3)
    state = random_state(spec)
    for name, tensor in state.items():
        if name.startswith("backbone.stages.2.1.") and name.endswith("conv.weight"):
            tensor *= 0.1
    scores = block_scores(state, spec)
    assert min(scores, key=lambda place: scores[place]) == (2, 1)


def test_wide_stages_are_not_taken_for_unimportant() -> None:
    wide = plain_spec("resnet_basic", width=4).with_stage(3, Stage(64, (64, 64)))
    scores = block_scores(random_state(wide), wide)
    assert scores[3, 1] == pytest.approx(scores[1, 1], rel=0.3)
