"""Deformable convolution (Dai et al. 2017), modulated as in Zhu et al. 2019, in an eager form and one of standard operators."""

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from jdnas.models.axes import Axis
from jdnas.models.layers import Conv

DeformForm = Literal["operator", "gather"]


class DeformableConv(Conv):
    """A convolution whose samples are shifted, and if `modulated` scaled, by what a second convolution reads from the same input.

    `offset` predicts, for each of the kernel's K = kernel^2 samples in row-major order, a shift (y, x), then K logits of the
    scales: the layout of detectron2 and mmdetection with one deformable group. It starts at zero, where this is a plain convolution.
    "operator" runs torchvision's kernel, "gather" standard operators with static shapes; both give the same result.
    """

    def __init__(
        self, reads: Axis, writes: Axis, kernel: int, stride: int, *, group_width: int = 0, modulated: bool, form: DeformForm
    ) -> None:
        super().__init__(reads, writes, kernel, stride, group_width=group_width)
        self.modulated, self.form = modulated, form
        samples = kernel**2
        self.offset = Conv(reads, Axis("offsets", (3 if modulated else 2) * samples), kernel, stride, bias=True)
        # The order of shifts means something: they follow no width.
        self.offset.axes = {"weight": (None, self.offset.axes["weight"][1], None, None), "bias": (None,)}

    def forward(self, input: Tensor) -> Tensor:
        """Map `[B, C_in, H, W]` to `[B, C_out, H/stride, W/stride]`."""
        predicted, samples = self.offset(input), self.kernel_size[0] * self.kernel_size[1]
        shifts = predicted[:, : 2 * samples]
        scales = predicted[:, 2 * samples :].sigmoid() if self.modulated else None
        if self.form == "gather":
            return self._by_gather(input, shifts, scales)
        padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        # The operator knows no bfloat16, and half would round the shifts.
        bias = None if self.bias is None else self.bias.float()
        scales = None if scales is None else scales.float()
        result: Tensor = deform_conv2d(input.float(), shifts.float(), self.weight.float(), bias, self.stride, padding, mask=scales)
        return result.to(predicted.dtype)

    def _by_gather(self, x: Tensor, shifts: Tensor, scales: Tensor | None) -> Tensor:
        batch, channels, height, width = x.shape
        out_hw, samples = shifts.shape[2:], shifts.shape[1] // 2
        y, x_place = self._positions(shifts)  # [B, K, H', W']
        rows = x.flatten(2).transpose(1, 2).flatten(0, 1)  # one row per pixel, [B H W, C]
        start = torch.arange(0, batch * height * width, height * width, device=x.device).reshape(-1, 1, 1, 1)
        top, left = y.floor(), x_place.floor()
        columns = torch.zeros((), dtype=x.dtype, device=x.device)
        for row, row_weight in ((top, top + 1 - y), (top + 1, y - top)):
            for column, column_weight in ((left, left + 1 - x_place), (left + 1, x_place - left)):
                inside = (row >= 0) & (row <= height - 1) & (column >= 0) & (column <= width - 1)
                weight = (row_weight * column_weight).where(inside, 0.0)
                weight = weight if scales is None else weight * scales
                index = row.to(torch.int64).clamp(0, height - 1) * width + column.to(torch.int64).clamp(0, width - 1)
                picked = rows.index_select(0, (index + start).flatten()).reshape(*index.shape, channels)
                columns = columns + picked * weight[..., None].to(x.dtype)
        groups = self.groups
        columns = columns.reshape(batch, samples, -1, groups, channels // groups).permute(0, 3, 2, 1, 4).flatten(3)  # [B, G, H'W', K C/G]
        weight = self.weight.reshape(groups, -1, channels // groups, samples).permute(0, 3, 2, 1).flatten(1, 2)  # [G, K C/G, O/G]
        result = (columns @ weight).transpose(2, 3).reshape(batch, -1, *out_hw)
        return result if self.bias is None else result + self.bias[:, None, None]

    def _positions(self, shifts: Tensor) -> tuple[Tensor, Tensor]:
        # Where each sample of each output reads, in input pixels; float32, whatever the network runs in.
        places = []
        for dim, size in enumerate(shifts.shape[2:]):
            kernel, stride = self.kernel_size[dim], self.stride[dim]
            taps = torch.arange(kernel, device=shifts.device, dtype=torch.float32) - kernel // 2
            taps = taps.repeat_interleave(self.kernel_size[1]) if dim == 0 else taps.repeat(self.kernel_size[0])
            origin = torch.arange(size, device=shifts.device, dtype=torch.float32) * stride
            origin = origin[:, None] if dim == 0 else origin[None, :]
            places.append(shifts[:, dim::2].float() + taps[:, None, None] + origin)
        return places[0], places[1]


def silence_offsets(module: nn.Module) -> None:
    """Let every deformable convolution in `module` start as a plain one."""
    for layer in module.modules():
        if isinstance(layer, DeformableConv) and layer.offset.bias is not None:
            nn.init.zeros_(layer.offset.weight)
            nn.init.zeros_(layer.offset.bias)
