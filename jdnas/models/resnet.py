"""ResNet backbones with basic and bottleneck blocks and free widths (He et al. 2016)."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from jdnas.models.axes import Axis
from jdnas.models.layers import ConvNorm, init_conv_weights
from jdnas.spec import DetectorSpec


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; `project` puts a strided 1x1 convolution on the shortcut."""

    residual_norm = "conv2.norm"

    def __init__(self, reads: Axis, inner: Axis, writes: Axis, stride: int, *, project: bool, eps: float) -> None:
        super().__init__()
        self.conv1 = ConvNorm(reads, inner, 3, stride, eps=eps)
        self.conv2 = ConvNorm(inner, writes, 3, eps=eps, activation="none")
        self.shortcut = ConvNorm(reads, writes, 1, stride, eps=eps, activation="none") if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, reads, H, W]` to `[B, writes, H/stride, W/stride]`."""
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the stride is in the 3x3 one unless `stride_in_1x1` puts it into the first."""

    residual_norm = "conv3.norm"

    def __init__(
        self, reads: Axis, inner: Axis, writes: Axis, stride: int, *, project: bool, eps: float, stride_in_1x1: bool = False
    ) -> None:
        super().__init__()
        before, within = (stride, 1) if stride_in_1x1 else (1, stride)
        first, second = Axis(f"{inner.name}.a", inner.width), Axis(f"{inner.name}.b", inner.width)
        self.conv1 = ConvNorm(reads, first, 1, before, eps=eps)
        self.conv2 = ConvNorm(first, second, 3, within, eps=eps)
        self.conv3 = ConvNorm(second, writes, eps=eps, activation="none")
        self.shortcut = ConvNorm(reads, writes, 1, stride, eps=eps, activation="none") if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, reads, H, W]` to `[B, writes, H/stride, W/stride]`."""
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem and four stages; gives the outputs of all stages at strides 4, 8, 16 and 32."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        traits = spec.traits
        block = BasicBlock if traits.block == "basic" else partial(Bottleneck, stride_in_1x1=spec.stride_in_1x1)
        reads = Axis("s0" if traits.tied_stem else "stem", spec.stem)
        self.stem = ConvNorm(Axis("image", 3), reads, 7, 2, eps=traits.norm_eps)
        self.stages = nn.ModuleList()
        self.out_axes: list[Axis] = []
        for index, (stage, stride) in enumerate(zip(spec.stages, traits.strides, strict=True)):
            writes = Axis(f"s{index}", stage.width)
            blocks = nn.ModuleList()
            for position, width in enumerate(stage.inner):
                inner = Axis(f"s{index}.b{position}", width)
                project = position == 0 and not (index == 0 and traits.tied_stem)
                blocks.append(block(reads, inner, writes, stride if position == 0 else 1, project=project, eps=traits.norm_eps))
                reads = writes
            self.stages.append(blocks)
            self.out_axes.append(writes)
        init_conv_weights(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map `[B, 3, H, W]` to four maps `[B, C_i, H/2^(i+2), W/2^(i+2)]`."""
        x = F.max_pool2d(self.stem(images), 3, 2, 1)
        maps = []
        for blocks in self.stages:
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x)
            maps.append(x)
        return maps
