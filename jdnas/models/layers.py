"""The layers every part of the detector is made of; each knows the named axes of its tensors."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from jdnas.families import Activation, Padding
from jdnas.models.axes import Axis, NamedAxes
from jdnas.models.global_batch import synchronized_batch_norm, synchronized_share

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hard_swish": F.hardswish,
    "none": lambda x: x,
}


class Conv(nn.Conv2d, NamedAxes):
    """A convolution between two named axes, or within groups of `group_width` channels of one (1: depthwise).

    A grouped convolution reads and writes the same axis, whose channels are whole groups (`Axis.repeat`): a group that goes takes
    what it reads and what it writes with it. `tf_same` pads as TensorFlow does: the odd pixel goes to the bottom right.
    """

    def __init__(
        self, reads: Axis, writes: Axis, kernel: int = 1, stride: int = 1, *,
        bias: bool = False, group_width: int = 0, padding: Padding = "symmetric",
    ) -> None:  # fmt: skip
        if group_width and (reads != writes or writes.repeat % group_width):
            raise ValueError(f"a convolution in groups of {group_width} needs one axis of whole groups, got {reads} and {writes}")
        self.tf_same = padding == "tf_same" and stride > 1
        groups = writes.size // group_width if group_width else 1
        super().__init__(reads.size, writes.size, kernel, stride, 0 if self.tf_same else kernel // 2, groups=groups, bias=bias)
        self.axes = {"weight": (writes, None if group_width else reads, None, None)}
        if bias:
            self.axes["bias"] = (writes,)

    def forward(self, input: Tensor) -> Tensor:
        """Map `[B, C_in, H, W]` to `[B, C_out, H/stride, W/stride]`, rounded up."""
        if self.tf_same:
            (above, below), (left, right) = (self._outer_padding(dim, input.shape[dim + 2]) for dim in (0, 1))
            input = F.pad(input, (left, right, above, below))
        return super().forward(input)

    def _outer_padding(self, dim: int, size: int) -> tuple[int, int]:
        stride, kernel = self.stride[dim], self.kernel_size[dim]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


class Norm(nn.BatchNorm2d, NamedAxes):
    """Batch normalization over a named axis."""

    def __init__(self, axis: Axis, eps: float) -> None:
        super().__init__(axis.size, eps=eps)
        self.axes = {name: (axis,) for name in ("weight", "bias", "running_mean", "running_var")}
        self.axes["num_batches_tracked"] = ()

    def forward(self, input: Tensor) -> Tensor:
        """Normalize `[B, C, H, W]`; in training by the statistics of the batch, of the whole one where norms are synchronized."""
        share = synchronized_share() if self.training else None
        if share is None:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        return synchronized_batch_norm(
            input, self.weight, self.bias, self.running_mean, self.running_var, share, momentum=self.momentum, eps=self.eps
        )


class Linear(nn.Linear, NamedAxes):
    """A fully connected layer between two named axes."""

    def __init__(self, reads: Axis, writes: Axis) -> None:
        super().__init__(reads.size, writes.size)
        self.axes = {"weight": (writes, reads), "bias": (writes,)}


class ConvNorm(nn.Module):
    """Convolution, batch normalization and activation: the unit that a runtime fuses into one kernel."""

    def __init__(self, conv: Conv, *, eps: float, activation: Activation = "relu") -> None:
        super().__init__()
        self.conv = conv
        axis = conv.axes["weight"][0]
        assert axis is not None
        self.norm = Norm(axis, eps)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C_in, H, W]` to `[B, C_out, H/stride, W/stride]`."""
        return _ACTIVATIONS[self.activation](self.norm(self.conv(x)))


class Squeeze(nn.Module):
    """Squeeze-and-excitation with a hard sigmoid (Hu et al. 2018, Howard et al. 2019): scales channels by what their means say."""

    def __init__(self, axis: Axis, hidden: Axis) -> None:
        super().__init__()
        self.reduce = Conv(axis, hidden, bias=True)
        self.expand = Conv(hidden, axis, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        scale = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * F.hardsigmoid(scale)


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
