"""Backbones of inverted residuals with free widths: MobileNetV2 and V3, EfficientNet-Lite."""

from torch import Tensor, nn

from jdnas.models.axes import Axis
from jdnas.models.layers import Conv, ConvNorm, Squeeze, init_conv_weights
from jdnas.spec import DetectorSpec


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze-and-excitation and linear 1x1 projection (Sandler et al. 2018, Howard et al. 2019).

    The first block of these families has no expansion. Only blocks after a stage's first have a shortcut, so that equal widths
    of neighbour stages never create one by accident; the first block of all has one where the family ties its width to the stem's.
    """

    residual_norm = "project.norm"

    def __init__(self, spec: DetectorSpec, stage: int, position: int, reads: Axis, writes: Axis) -> None:
        super().__init__()
        traits, widths = spec.traits, spec.stages[stage]
        eps, activation = traits.norm_eps, traits.activations[stage]
        expand = (stage, position) != (0, 0)
        inner = Axis(f"s{stage}.b{position}", widths.inner[position]) if expand else reads
        stride = traits.strides[stage] if position == 0 else 1
        depthwise = Conv(inner, inner, traits.kernels[stage], stride, group_width=1, padding=traits.padding)
        self.expand = ConvNorm(Conv(reads, inner), eps=eps, activation=activation) if expand else nn.Identity()
        self.depthwise = ConvNorm(depthwise, eps=eps, activation=activation)
        hidden = Axis(f"s{stage}.b{position}.se", widths.squeeze[position]) if widths.squeeze else None
        self.squeeze = Squeeze(inner, hidden) if hidden else nn.Identity()
        self.project = ConvNorm(Conv(inner, writes), eps=eps, activation="none")
        self.shortcut = position > 0 or (stage == 0 and traits.tied_stem)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, reads, H, W]` to `[B, writes, H/stride, W/stride]`."""
        y: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.shortcut else y


class MobileNet(nn.Module):
    """Stem, stages of inverted residuals, and a 1x1 convolution after them where the spec has a tail."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        traits = spec.traits
        self.taps = spec.taps
        reads = Axis("s0" if traits.tied_stem else "stem", spec.stem)
        stem = Conv(Axis("image", 3), reads, 3, 2, padding=traits.padding)
        self.stem = ConvNorm(stem, eps=traits.norm_eps, activation=traits.stem_activation)
        self.stages = nn.ModuleList()
        writes_of = []
        for index, stage in enumerate(spec.stages):
            writes, blocks = Axis(f"s{index}", stage.width), nn.ModuleList()
            for position in range(stage.depth):
                blocks.append(InvertedResidual(spec, index, position, reads, writes))
                reads = writes
            self.stages.append(blocks)
            writes_of.append(writes)
        self.out_axes = [writes_of[stage] for stage, _ in self.taps]
        self.tail: nn.Module = nn.Identity()
        if spec.tail:
            self.out_axes[-1] = Axis("tail", spec.tail)
            self.tail = ConvNorm(Conv(reads, self.out_axes[-1]), eps=traits.norm_eps, activation=traits.stem_activation)
        init_conv_weights(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map `[B, 3, H, W]` to one map per tap, at the strides of the spec's head."""
        maps = tapped(self.stages, self.taps, self.stem(images))
        return [*maps[:-1], self.tail(maps[-1])]


def tapped(stages: nn.ModuleList, taps: tuple[tuple[int, bool], ...], x: Tensor) -> list[Tensor]:
    """Run `stages` on `x` and return what `taps` read: (stage, whole) is the map after a stage, or after its first block."""
    maps: dict[tuple[int, bool], Tensor] = {}
    for index, blocks in enumerate(stages):
        for position, block in enumerate(blocks):  # type: ignore[arg-type, var-annotated]
            x = block(x)
            if position == 0:
                maps[index, False] = x
        maps[index, True] = x
    return [maps[tap] for tap in taps]
