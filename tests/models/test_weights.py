import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jdnas.errors import CheckpointError
from jdnas.models.detector import call_with
from jdnas.models.weights import carry, check_state, cut, grow, meta_detector, morph, permute, same_places, shapes_of, widths_of
from jdnas.spec import FAMILIES, DetectorSpec
from tests.models.specs import QUICK, images, largest_difference, loaded, outputs, pairs, plain_outputs, plain_spec, random_state, specs

PairOfSpecs = tuple[DetectorSpec, DetectorSpec]


def _orders(spec: DetectorSpec, seed: int = 0) -> dict[str, torch.Tensor]:
    """Shuffle every axis but those whose order means something outside the network."""
    generator = torch.Generator().manual_seed(seed)
    fixed = {"image", "anchors", "anchor_deltas", "class_logits", "class_deltas"}
    return {name: torch.randperm(width, generator=generator) for name, width in widths_of(spec).items() if name not in fixed}


@QUICK
@given(pairs())
def test_an_elastic_forward_equals_the_materialized_net_bit_for_bit(pair: PairOfSpecs) -> None:
    large, small = pair
    views = cut(random_state(large), small)
    for ours, plain in zip(outputs(small, views), plain_outputs(loaded(small, views)), strict=True):
        assert torch.equal(ours, plain)


@QUICK
@given(pairs())
def test_cut_views_share_the_storage_of_the_larger_state(pair: PairOfSpecs) -> None:
    large, small = pair
    state = random_state(large)
    views = cut(state, small)
    assert {name: view.shape for name, view in views.items()} == dict(shapes_of(small))
    assert all(view.untyped_storage().data_ptr() == state[name].untyped_storage().data_ptr() for name, view in views.items())


@QUICK
@given(pairs())
def test_gradients_reach_the_cut_and_nothing_outside(pair: PairOfSpecs) -> None:
    large, small = pair
    state = random_state(large)
    leaves = {name: t.requires_grad_() for name, t in state.items() if t.is_floating_point() and "running_" not in name}
    detector = meta_detector(small).eval()
    pyramid = call_with(detector, cut(state, small), "features", images())
    # Squares, so that no gradient is zero by symmetry.
    sum((level**2).sum() for level in pyramid).backward()  # type: ignore[union-attr]
    inside = {name for name in shapes_of(small) if name in leaves and name.startswith(("backbone.", "fpn."))}
    for name, leaf in leaves.items():
        if name not in inside:
            assert leaf.grad is None
            continue
        assert leaf.grad is not None and leaf.grad.isfinite().all()
        corner = tuple(slice(0, size) for size in shapes_of(small)[name])
        outside = leaf.grad.clone()
        outside[corner] = 0
        assert not outside.any()
    assert any(leaves[name].grad.any() for name in inside)  # type: ignore[union-attr]


@QUICK
@given(pairs())
def test_grow_keeps_the_function_and_cut_undoes_it(pair: PairOfSpecs) -> None:
    large, small = pair
    state = random_state(small)
    grown = grow(state, small, large, seed=3)
    loaded(large, grown)
    assert largest_difference(outputs(large, grown), outputs(small, state)) < 1e-5
    back = cut(grown, small)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_new_channels_and_blocks_can_learn() -> None:
    small, large = plain_spec("resnet_bottleneck", width=4, depth=1), plain_spec("resnet_bottleneck", width=8, depth=2)
    grown = grow(random_state(small), small, large)
    assert grown["backbone.stages.0.0.conv1.conv.weight"][4:].any(), "writers of new channels are not fresh"
    assert not grown["backbone.stages.0.0.conv2.conv.weight"][:, 4:].any(), "readers of new channels are not zero"
    assert grown["backbone.stages.1.1.conv1.conv.weight"].any()
    assert grown["backbone.stages.1.1.conv2.norm.weight"].eq(1).all()
    assert not grown["backbone.stages.1.1.conv3.norm.weight"].any()


@QUICK
@given(specs(), st.integers(0, 99))
def test_permute_keeps_the_function_and_can_be_undone(spec: DetectorSpec, seed: int) -> None:
    state = random_state(spec)
    orders = _orders(spec, seed)
    neck = orders.pop("neck")
    permuted = permute(state, spec, orders)
    back = permute(permuted, spec, {name: order.argsort() for name, order in orders.items()})
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    assert largest_difference(outputs(spec, permuted), outputs(spec, state)) < 1e-4
    with_neck = outputs(spec, permute(state, spec, {**orders, "neck": neck}))
    expected = outputs(spec, state)
    levels = len(spec.head.strides)
    expected[:levels] = [level[:, neck] for level in expected[:levels]]
    assert largest_difference(with_neck, expected) < 1e-4


@QUICK
@given(pairs(), st.integers(0, 99))
def test_morph_with_kept_channels_is_permute_then_cut(pair: PairOfSpecs, seed: int) -> None:
    large, small = pair
    state, orders, widths = random_state(large), _orders(large, seed), widths_of(small)
    expected = cut(permute(state, large, orders), small)
    kept = {name: order[: widths[name]] for name, order in orders.items() if name in widths}
    morphed = morph(state, large, small, kept=kept)
    assert morphed.keys() == expected.keys()
    assert all(torch.equal(morphed[name], tensor) for name, tensor in expected.items())


@QUICK
@given(pairs())
def test_copies_share_nothing_with_their_source(pair: PairOfSpecs) -> None:
    large, small = pair
    state = random_state(small)
    before = {name: tensor.clone() for name, tensor in state.items()}
    for copy in (grow(state, small, large), permute(state, small, {}), morph(state, small, small)):
        for tensor in copy.values():
            tensor.fill_(7)
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_block_can_be_inserted_between_others(family: str) -> None:
    small = plain_spec(family, depth=2)
    large = small.with_stage(1, small.stages[1].with_copy(2))
    places = {**same_places(small), (1, 2): (1, 1)}
    del places[1, 1]
    state = random_state(small)
    grown = morph(state, small, large, places=places)
    assert largest_difference(outputs(large, grown), outputs(small, state)) < 1e-5
    name = next(n for n in shapes_of(small) if n.startswith("backbone.stages.1.1.") and n.endswith("conv.weight"))
    assert torch.equal(grown[name.replace("stages.1.1", "stages.1.2")], state[name])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_carry_takes_momentum_the_way_of_its_weights(family: str) -> None:
    small, large = plain_spec(family, width=4, depth=1), plain_spec(family, width=8, depth=2)
    momentum = {n: t for n, t in random_state(small, seed=5).items() if n.endswith(("weight", "bias"))}
    carried = carry(momentum, small, large)
    assert carried.keys() == momentum.keys()
    for name, tensor in carried.items():
        assert tensor.shape == shapes_of(large)[name]
        assert tensor.abs().sum().item() == pytest.approx(momentum[name].abs().sum().item(), rel=1e-5)
    orders = _orders(small)
    permuted = permute(random_state(small, seed=5), small, orders)
    assert all(torch.equal(tensor, permuted[name]) for name, tensor in carry(momentum, small, small, kept=orders).items())


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_are_written_through_the_views_only_while_training(training: bool) -> None:
    large, small = plain_spec("resnet_basic", width=8), plain_spec("resnet_basic", width=4)
    state = random_state(large)
    before = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        call_with(meta_detector(small).train(training), cut(state, small), "features", images())
    mean, norm_count = state["backbone.stem.norm.running_mean"], state["backbone.stem.norm.num_batches_tracked"]
    assert torch.equal(mean[4:], before["backbone.stem.norm.running_mean"][4:])
    assert torch.equal(mean[:4], before["backbone.stem.norm.running_mean"][:4]) is not training
    assert norm_count.item() == int(training)


def test_equal_seeds_give_equal_growth_whatever_the_global_seed() -> None:
    small, large = plain_spec("efficientnet_lite", width=4, depth=1), plain_spec("efficientnet_lite", width=6, depth=2)
    state = random_state(small)
    first = grow(state, small, large, seed=1)
    torch.manual_seed(99)
    drawn = torch.get_rng_state()
    second, other = grow(state, small, large, seed=1), grow(state, small, large, seed=2)
    assert torch.equal(torch.get_rng_state(), drawn), "grow moved the global generator"
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_half_precision_states_stay_half() -> None:
    small, large = plain_spec("resnet_basic", width=4, depth=1), plain_spec("resnet_basic", width=8, depth=2)
    state = {n: t.half() if t.is_floating_point() else t for n, t in random_state(small).items()}
    dtypes = {tensor.dtype for name, tensor in grow(state, small, large).items() if "num_batches" not in name}
    assert dtypes == {torch.float16}


def test_check_state_counts_what_does_not_fit() -> None:
    spec = plain_spec("resnet_basic")
    state = random_state(spec)
    check_state(state, spec)
    state["stranger"] = state.pop("fpn.lateral.0.bias")
    state["rpn.conv.bias"] = torch.zeros(99)
    with pytest.raises(
        CheckpointError, match=r"weights\.bin does not fit .* 1 missing \(first: fpn\.lateral\.0\.bias\), 1 unexpected .*\(99,\)"
    ):
        check_state(state, spec, source="weights.bin")


def test_cut_names_what_is_too_small() -> None:
    with pytest.raises(CheckpointError, match=r"backbone\.stem\.conv\.weight needs \(8, 3, 7, 7\), got \(4, 3, 7, 7\)"):
        cut(random_state(plain_spec("resnet_basic", width=4)), plain_spec("resnet_basic", width=8))


def test_grow_refuses_smaller_targets() -> None:
    spec = plain_spec("resnet_basic", width=4, depth=2)
    with pytest.raises(CheckpointError, match=r"cannot grow .*larger"):
        grow(random_state(spec), spec, plain_spec("resnet_basic", width=2, depth=2))
    with pytest.raises(CheckpointError, match="fewer blocks"):
        grow(random_state(spec), spec, plain_spec("resnet_basic", width=4, depth=1))


def test_a_first_block_cannot_be_new() -> None:
    spec = plain_spec("resnet_basic", width=4, depth=2)
    places = same_places(spec)
    del places[2, 0]
    with pytest.raises(CheckpointError, match=r"backbone\.stages\.2\.0 is its stage's first block"):
        morph(random_state(spec), spec, spec, places=places)


def test_permute_refuses_what_is_no_permutation() -> None:
    spec = plain_spec("resnet_basic", width=4)
    state = random_state(spec)
    with pytest.raises(ValueError, match="'s1' is not a permutation of its 4 channels"):
        permute(state, spec, {"s1": torch.tensor([0, 1, 1, 2])})
    with pytest.raises(ValueError, match="'s9'"):
        permute(state, spec, {"s9": torch.arange(4)})
