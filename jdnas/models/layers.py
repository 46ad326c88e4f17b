"""The layers every part of the detector is made of; each knows the named axes of its tensors."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jdnas.models.axes import Axis, NamedAxes

Padding = Literal["symmetric", "tf_same"]
Activation = Literal["relu", "relu6", "none"]


class Conv(nn.Conv2d, NamedAxes):
    """A convolution between two named axes; depthwise where `reads` and `writes` are one axis and `depthwise` is set.

    `tf_same` pads as TensorFlow does for input sizes divisible by the stride: the odd pixel goes to the bottom right.
    """

    def __init__(
        self, reads: Axis, writes: Axis, kernel: int = 1, stride: int = 1, *,
        bias: bool = False, depthwise: bool = False, padding: Padding = "symmetric",
    ) -> None:  # fmt: skip
        total = max(kernel - stride, 0)
        self.outer_padding = (total // 2, total - total // 2) if padding == "tf_same" and stride > 1 else None
        inner_padding = 0 if self.outer_padding else kernel // 2
        groups = writes.width if depthwise else 1
        super().__init__(reads.size, writes.size, kernel, stride, inner_padding, groups=groups, bias=bias)
        self.axes = {"weight": (writes, None if depthwise else reads, None, None)}
        if bias:
            self.axes["bias"] = (writes,)

    def forward(self, input: Tensor) -> Tensor:
        """Map `[B, C_in, H, W]` to `[B, C_out, H/stride, W/stride]`."""
        if self.outer_padding is not None:
            before, after = self.outer_padding
            input = F.pad(input, (before, after, before, after))
        return super().forward(input)


class Norm(nn.BatchNorm2d, NamedAxes):
    """Batch normalization over a named axis."""

    def __init__(self, axis: Axis, eps: float) -> None:
        super().__init__(axis.size, eps=eps)
        self.axes = {name: (axis,) for name in ("weight", "bias", "running_mean", "running_var")}
        self.axes["num_batches_tracked"] = ()


class Linear(nn.Linear, NamedAxes):
    """A fully connected layer between two named axes."""

    def __init__(self, reads: Axis, writes: Axis) -> None:
        super().__init__(reads.size, writes.size)
        self.axes = {"weight": (writes, reads), "bias": (writes,)}


class ConvNorm(nn.Module):
    """Convolution, batch normalization and activation: the unit that a runtime fuses into one kernel."""

    def __init__(
        self, reads: Axis, writes: Axis, kernel: int = 1, stride: int = 1, *,
        eps: float, activation: Activation = "relu", depthwise: bool = False, padding: Padding = "symmetric",
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = Conv(reads, writes, kernel, stride, depthwise=depthwise, padding=padding)
        self.norm = Norm(writes, eps)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C_in, H, W]` to `[B, C_out, H/stride, W/stride]`."""
        x = self.norm(self.conv(x))
        if self.activation == "relu":
            return F.relu(x)
        return F.relu6(x) if self.activation == "relu6" else x


def init_conv_weights(module: nn.Module) -> None:
    """Draw He-normal convolution weights and neutral norms, as torchvision does for backbones trained from scratch."""
    if any(parameter.is_meta for parameter in module.parameters()):
        return  # There is nothing to draw, and drawing it anyway takes most of the time of building without storage.
    for layer in module.modules():
        if isinstance(layer, Conv):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, Norm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


def freeze_norms(module: nn.Module) -> None:
    """Let batch normalization use its running statistics, also while training."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


def is_tracing() -> bool:
    """Whether a graph is being captured, so that data-dependent shapes are not allowed."""
    return torch.compiler.is_compiling()
