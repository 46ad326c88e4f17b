import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jdnas.models.detector import call_with
from jdnas.models.weights import State, meta_detector, shapes_of
from jdnas.spec import FAMILIES, DetectorSpec, Stage
from jdnas.student.actions import Action
from jdnas.student.importance import block_scores
from jdnas.student.inherit import evolve
from tests.models.specs import (
    images,
    largest_difference,
    outputs,
    plain_spec,
    random_state,
    specs,
)
from tests.student.helpers import FAMILY_NAMES, FEW, RULES


@pytest.mark.parametrize("family", FAMILY_NAMES)
@FEW
@given(st.data())
def test_added_layers_keep_the_function(family: str, data: st.DataObject) -> None:
    spec = data.draw(specs(families=(family,)))
    stage = data.draw(st.integers(0, len(spec.stages) - 1))
    position = data.draw(st.sampled_from([-1, *range(1, spec.stages[stage].depth + 1)]))
    state = random_state(spec)
    evolved, target = evolve(state, spec, Action("add_layer", stage=stage, position=position), RULES)
    assert target.depths[stage] == spec.depths[stage] + 1
    assert sorted(target.stages[stage].inner) == sorted((*spec.stages[stage].inner, spec.stages[stage].inner[-1]))
    assert largest_difference(outputs(target, evolved), outputs(spec, state)) < 1e-5


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
@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.bfloat16), pytest.param("cuda", torch.float16, marks=pytest.mark.gpu)], ids=["cpu", "cuda"]
)
def test_added_layers_keep_the_function_in_half_precision(family: str, device: str, dtype: torch.dtype) -> None:
    spec = plain_spec(family)
    state = random_state(spec)
    evolved, target = evolve(state, spec, Action("add_layer", stage=1), RULES)

    def features(of: DetectorSpec, weights: State) -> list[torch.Tensor]:
        half = {name: t.to(device, dtype) if t.is_floating_point() else t.to(device) for name, t in weights.items()}
        with torch.no_grad():
            return call_with(meta_detector(of).eval(), half, "features", images().to(device, dtype))

    assert largest_difference(features(target, evolved), features(spec, state)) == 0
