import pytest
from hypothesis import given
from torch import nn

from jdnas.models.axes import Axis, state_axes
from jdnas.models.layers import Conv, Linear, Norm
from jdnas.models.weights import axes_of, shapes_of
from jdnas.spec import FAMILIES, DetectorSpec
from tests.models.specs import QUICK, plain_spec, specs


def _tensors_on(spec: DetectorSpec, axis: str) -> set[str]:
    """Name the weights that have a named axis, as `entry:dimension`."""
    table = axes_of(spec).items()
    return {f"{n}:{d}" for n, axes in table if n.endswith("weight") for d, a in enumerate(axes) if a is not None and a.name == axis}


def test_flattened_axes_count_positions_per_channel() -> None:
    axis = Axis("neck", 6).flattened(49)
    assert (axis.name, axis.width, axis.size) == ("neck", 6, 294)


def test_layers_name_their_own_tensors() -> None:
    reads, writes = Axis("a", 3), Axis("b", 5)
    table = state_axes(nn.ModuleDict({"conv": Conv(reads, writes, 3, bias=True), "norm": Norm(writes, 1e-5), "fc": Linear(reads, writes)}))
    assert table["conv.weight"] == (writes, reads, None, None)
    assert table["conv.bias"] == table["norm.running_var"] == table["fc.bias"] == (writes,)
    assert table["norm.num_batches_tracked"] == ()
    assert table["fc.weight"] == (writes, reads)


def test_depthwise_convolutions_follow_one_axis() -> None:
    axis = Axis("a", 4)
    conv = Conv(axis, axis, 3, group_width=1)
    assert state_axes(conv)["weight"] == (axis, None, None, None)
    assert conv.weight.shape == (4, 1, 3, 3)


def test_layers_without_names_are_refused() -> None:
    with pytest.raises(TypeError, match=r"layers without named axes hold \['1\.bias', '1\.weight'\]"):
        state_axes(nn.Sequential(Linear(Axis("a", 2), Axis("b", 2)), nn.Linear(2, 2)))


@QUICK
@given(specs())
def test_the_table_has_every_entry_and_the_right_sizes(spec: DetectorSpec) -> None:
    shapes, widths = shapes_of(spec), {}
    assert axes_of(spec).keys() == shapes.keys()
    for name, axes in axes_of(spec).items():
        assert len(axes) == len(shapes[name])
        for axis, size in zip(axes, shapes[name], strict=True):
            if axis is not None:
                assert axis.size == size
                assert widths.setdefault(axis.name, axis.width) == axis.width, f"two widths named {axis.name}"


def test_a_basic_stage_couples_the_stem_and_all_its_residual_outputs() -> None:
    blocks = "backbone.stages.0"
    assert _tensors_on(plain_spec("resnet_basic", depth=2), "s0") == {
        "backbone.stem.conv.weight:0", "backbone.stem.norm.weight:0",
        f"{blocks}.0.conv1.conv.weight:1", f"{blocks}.0.conv2.conv.weight:0", f"{blocks}.0.conv2.norm.weight:0",
        f"{blocks}.1.conv1.conv.weight:1", f"{blocks}.1.conv2.conv.weight:0", f"{blocks}.1.conv2.norm.weight:0",
        "backbone.stages.1.0.conv1.conv.weight:1", "backbone.stages.1.0.shortcut.conv.weight:1", "fpn.lateral.0.weight:1",
    }  # fmt: skip


def test_a_bottleneck_has_two_inner_axes() -> None:
    spec, block = plain_spec("resnet_bottleneck"), "backbone.stages.1.1"
    assert _tensors_on(spec, "s1.b1.a") == {f"{block}.conv1.conv.weight:0", f"{block}.conv1.norm.weight:0", f"{block}.conv2.conv.weight:1"}
    assert _tensors_on(spec, "s1.b1.b") == {f"{block}.conv2.conv.weight:0", f"{block}.conv2.norm.weight:0", f"{block}.conv3.conv.weight:1"}
    assert "backbone.stages.1.0.shortcut.conv.weight:0" in _tensors_on(spec, "s1")


def test_an_inverted_residual_couples_expansion_and_depthwise() -> None:
    spec, block = plain_spec("efficientnet_lite"), "backbone.stages.2.1"
    assert _tensors_on(spec, "s2.b1") == {
        f"{block}.expand.conv.weight:0", f"{block}.expand.norm.weight:0",
        f"{block}.depthwise.conv.weight:0", f"{block}.depthwise.norm.weight:0", f"{block}.project.conv.weight:1",
    }  # fmt: skip
    first = "backbone.stages.0.0"
    assert {"backbone.stem.conv.weight:0", f"{first}.depthwise.conv.weight:0", f"{first}.project.conv.weight:1"} <= _tensors_on(
        spec, "stem"
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_only_tapped_stages_feed_the_pyramid(family: str) -> None:
    spec = plain_spec(family)
    fed = [axes[1].name for name, axes in axes_of(spec).items() if name.startswith("fpn.lateral") and name.endswith("weight")]
    assert fed == [f"s{tap}" for tap in spec.traits.taps]
