"""Feature pyramid network (Lin et al. 2017)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from jdnas.models.axes import Axis
from jdnas.models.layers import Conv


class Fpn(nn.Module):
    """Lateral 1x1 convolutions, a top-down pathway, 3x3 output convolutions, and P6 as every second pixel of P5."""

    def __init__(self, reads: Sequence[Axis], writes: Axis) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(Conv(axis, writes, bias=True) for axis in reads)
        self.output = nn.ModuleList(Conv(writes, writes, 3, bias=True) for _ in reads)
        for layer in self.modules():
            if isinstance(layer, Conv):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map four backbone maps to P2..P6, each `[B, neck, H/2^l, W/2^l]`."""
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            merged[level - 1] = merged[level - 1] + F.interpolate(merged[level], size=merged[level - 1].shape[-2:], mode="nearest")
        pyramid = [output(x) for output, x in zip(self.output, merged, strict=True)]
        return [*pyramid, F.max_pool2d(pyramid[-1], 1, 2)]
