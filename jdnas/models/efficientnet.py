"""EfficientNet-Lite backbones with free widths (inverted residuals without squeeze-and-excitation, ReLU6)."""

from torch import Tensor, nn

from jdnas.models.axes import Axis
from jdnas.models.layers import ConvNorm, init_conv_weights
from jdnas.spec import DetectorSpec


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution and linear 1x1 projection (Sandler et al. 2018).

    `expand` is off for a family's first block. Only blocks after a stage's first have a shortcut, so that equal widths
    of neighbour stages never create one by accident.
    """

    residual_norm = "project.norm"

    def __init__(
        self, reads: Axis, inner: Axis, writes: Axis, kernel: int, stride: int, *, expand: bool, shortcut: bool, eps: float
    ) -> None:
        super().__init__()
        self.expand = ConvNorm(reads, inner, eps=eps, activation="relu6", padding="tf_same") if expand else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, kernel, stride, eps=eps, activation="relu6", depthwise=True, padding="tf_same")
        self.project = ConvNorm(inner, writes, eps=eps, activation="none")
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, reads, H, W]` to `[B, writes, H/stride, W/stride]`."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class EfficientNetLite(nn.Module):
    """Stem and seven stages; gives the maps of the tapped stages at strides 4, 8, 16 and 32."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        traits = spec.traits
        self.taps = traits.taps
        stem = Axis("stem", spec.stem)
        self.stem = ConvNorm(Axis("image", 3), stem, 3, 2, eps=traits.norm_eps, activation="relu6", padding="tf_same")
        self.stages = nn.ModuleList()
        reads, writes_of = stem, []
        for index, (stage, kernel, stride) in enumerate(zip(spec.stages, traits.kernels, traits.strides, strict=True)):
            writes = Axis(f"s{index}", stage.width)
            blocks = nn.ModuleList()
            for position, width in enumerate(stage.inner):
                expand = (index, position) != (0, 0)
                inner = Axis(f"s{index}.b{position}", width) if expand else stem
                first = position == 0
                blocks.append(
                    InvertedResidual(
                        reads, inner, writes, kernel, stride if first else 1, expand=expand, shortcut=not first, eps=traits.norm_eps
                    )
                )
                reads = writes
            self.stages.append(blocks)
            writes_of.append(writes)
        self.out_axes = [writes_of[tap] for tap in traits.taps]
        init_conv_weights(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map `[B, 3, H, W]` to four maps at strides 4, 8, 16 and 32."""
        x = self.stem(images)
        maps = []
        for blocks in self.stages:
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x)
            maps.append(x)
        return [maps[tap] for tap in self.taps]
