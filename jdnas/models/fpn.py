"""Feature pyramid network (Lin et al. 2017)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from jdnas.models.axes import Axis
from jdnas.models.layers import Conv, ConvNorm

NORM_EPS = 1e-5


class Fpn(nn.Module):
    """Lateral 1x1 convolutions, a top-down pathway, 3x3 output convolutions, and `pooled` levels more.

    A pooled level is every second pixel of the one before. With `norm`, convolutions have batch normalization in place of biases.
    The laterals' sums and the outputs have the same width, as named axes of their own.
    """

    def __init__(self, reads: Sequence[Axis], writes: Axis, *, pooled: int = 1, norm: bool = False) -> None:
        super().__init__()
        self.pooled = pooled
        merged = Axis(f"{writes.name}.merged", writes.width)
        self.lateral = nn.ModuleList(_layer(axis, merged, 1, norm) for axis in reads)
        self.output = nn.ModuleList(_layer(merged, writes, 3, norm) for _ in reads)
        for layer in self.modules():
            if isinstance(layer, Conv):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map the backbone's maps to as many levels `[B, neck, H_l, W_l]` and the pooled ones after them."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            merged[level - 1] = merged[level - 1] + F.interpolate(merged[level], size=merged[level - 1].shape[-2:], mode="nearest")
        pyramid = [output(x) for output, x in zip(self.output, merged, strict=True)]
        for _ in range(self.pooled):
            pyramid.append(F.max_pool2d(pyramid[-1], 1, 2))
        return pyramid


def _layer(reads: Axis, writes: Axis, kernel: int, norm: bool) -> nn.Module:
    conv = Conv(reads, writes, kernel, bias=not norm)
    return ConvNorm(conv, eps=NORM_EPS, activation="none") if norm else conv
