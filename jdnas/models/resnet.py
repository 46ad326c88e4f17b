"""ResNet and ResNeXt backbones with basic and bottleneck blocks and free widths (He et al. 2016, Xie et al. 2017)."""

from torch import Tensor, nn
from torch.nn import functional as F

from jdnas.models.axes import Axis
from jdnas.models.deform import DeformableConv, DeformForm, silence_offsets
from jdnas.models.layers import Conv, ConvNorm, init_conv_weights
from jdnas.models.mobile import tapped
from jdnas.spec import DetectorSpec


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; `project` puts a strided 1x1 convolution on the shortcut."""

    residual_norm = "conv2.norm"

    def __init__(self, reads: Axis, inner: Axis, writes: Axis, stride: int, *, project: bool, eps: float) -> None:
        super().__init__()
        self.conv1 = ConvNorm(Conv(reads, inner, 3, stride), eps=eps)
        self.conv2 = ConvNorm(Conv(inner, writes, 3), eps=eps, activation="none")
        self.shortcut = _shortcut(reads, writes, stride, project=project, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, reads, H, W]` to `[B, writes, H/stride, W/stride]`."""
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the stride is in the 3x3 one unless `stride_in_1x1` puts it into the first.

    The two inner widths are named axes of their own where the 3x3 convolution reads all channels, and one axis of whole groups
    where it works in groups.
    """

    residual_norm = "conv3.norm"

    def __init__(self, spec: DetectorSpec, stage: int, position: int, reads: Axis, writes: Axis, deform_form: DeformForm) -> None:
        super().__init__()
        traits, name, width = spec.traits, f"s{stage}.b{position}", spec.stages[stage].inner[position]
        eps, group = traits.norm_eps, traits.group_widths[stage]
        stride = traits.strides[stage] if position == 0 else 1
        early, late = (stride, 1) if spec.stride_in_1x1 else (1, stride)
        first, second = (Axis(name, width // group, group),) * 2 if group else (Axis(f"{name}.a", width), Axis(f"{name}.b", width))
        self.conv1 = ConvNorm(Conv(reads, first, 1, early), eps=eps)
        middle = Conv(first, second, 3, late, group_width=group)
        if stage in spec.deformable:
            middle = DeformableConv(first, second, 3, late, group_width=group, modulated=spec.modulated, form=deform_form)
        self.conv2 = ConvNorm(middle, eps=eps)
        self.conv3 = ConvNorm(Conv(second, writes), eps=eps, activation="none")
        self.shortcut = _shortcut(reads, writes, stride, project=position == 0, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, reads, H, W]` to `[B, writes, H/stride, W/stride]`."""
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))


def _shortcut(reads: Axis, writes: Axis, stride: int, *, project: bool, eps: float) -> nn.Module:
    return ConvNorm(Conv(reads, writes, 1, stride), eps=eps, activation="none") if project else nn.Identity()


class ResNet(nn.Module):
    """Stem and four stages; gives the maps that the spec's head reads."""

    def __init__(self, spec: DetectorSpec, deform_form: DeformForm = "operator") -> None:
        super().__init__()
        traits = spec.traits
        self.taps = spec.taps
        reads = Axis("s0" if traits.tied_stem else "stem", spec.stem)
        self.stem = ConvNorm(Conv(Axis("image", 3), reads, 7, 2), eps=traits.norm_eps)
        self.stages = nn.ModuleList()
        writes_of: list[Axis] = []
        for index, stage in enumerate(spec.stages):
            writes, blocks = Axis(f"s{index}", stage.width), nn.ModuleList()
            for position, width in enumerate(stage.inner):
                if traits.block == "basic":
                    stride, project = traits.strides[index] if position == 0 else 1, position == 0 and not (index == 0 and traits.tied_stem)
                    inner = Axis(f"s{index}.b{position}", width)
                    blocks.append(BasicBlock(reads, inner, writes, stride, project=project, eps=traits.norm_eps))
                else:
                    blocks.append(Bottleneck(spec, index, position, reads, writes, deform_form))
                reads = writes
            self.stages.append(blocks)
            writes_of.append(writes)
        self.out_axes = [writes_of[stage] for stage, _ in self.taps]
        init_conv_weights(self)
        silence_offsets(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map `[B, 3, H, W]` to one map per tap, at the strides of the spec's head."""
        return tapped(self.stages, self.taps, F.max_pool2d(self.stem(images), 3, 2, 1))
