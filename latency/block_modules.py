"""Fused blocks as PyTorch modules, for runtimes that compile PyTorch and read no ONNX."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.artifact import INPUT_NAMES, OUTPUT_NAMES
from export.forms import forms_for
from jdnas.models.detector import Detector, build
from latency.blocks import Block, SizeHW, kernel_and_stride, reads_per_output
from latency.plan import rest_spec

Inputs = Mapping[str, Tensor]


def layer_module(block: Block, copies: int) -> tuple[nn.Module, Inputs]:
    """Return a module that runs a layer `copies` times on one input as `latency.block_graphs.layer_graph` does, and its input."""
    reads, writes, height, width, rows = block.sizes
    layers: list[nn.Module]
    if block.family == "linear":
        layers, shape = [nn.Linear(reads, writes) for _ in range(copies)], (rows, reads)
    else:
        kernel, stride = kernel_and_stride(block.family)
        groups = reads // reads_per_output(block.family, reads)
        layers = [nn.Conv2d(reads, writes, kernel, stride, kernel // 2, groups=groups) for _ in range(copies)]
        shape = (rows, reads, height * stride, width * stride)  # type: ignore[assignment]
    return _Layers(layers).requires_grad_(False), {"x": torch.randn(shape, generator=torch.Generator().manual_seed(0))}


class _Layers(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        total = F.relu(self.layers[0](x))
        for layer in self.layers[1:]:
            total = F.relu(layer(x) + total)
        return (total,)


def rest_module(block: Block) -> tuple[nn.Module, Inputs, tuple[str, ...]]:
    """Return what stays of a detector without its layers with weights, its inputs (what those layers would give), and its outputs' names.

    What the layers would read is among the outputs, so that nothing of it is dropped.
    """
    spec, size_hw = rest_spec(block), (block.sizes[0], block.sizes[1])
    noise = torch.Generator().manual_seed(0)
    shapes = _Rest(build(spec, device="meta", forms=forms_for("aoti"))).shapes(size_hw)
    fed = {name: torch.randn(shape, generator=noise) for name, shape in shapes.items()}
    module = _Rest(build(spec, forms=forms_for("aoti")).requires_grad_(False)).cut()
    inputs = {INPUT_NAMES[1]: torch.tensor([size_hw]), **fed}
    with torch.no_grad():
        count = len(module(*inputs.values()))
    return module, inputs, (*OUTPUT_NAMES, *(f"read{index}" for index in range(count - len(OUTPUT_NAMES))))


class _Tape:
    """What stands in for layers next, and what they were given."""

    def __init__(self) -> None:
        self.fed: list[Tensor] = []
        self.read: list[Tensor] = []


class _Rest(nn.Module):
    """A detector whose layers with weights give what is fed to them, in the order in which they run."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector, self.tape = detector.eval(), _Tape()

    def shapes(self, size_hw: SizeHW) -> dict[str, tuple[int, ...]]:
        """Return what the layers give, by names in their order; of a detector on "meta"."""
        found: dict[str, tuple[int, ...]] = {}

        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            for tensor in output if isinstance(output, tuple) else (output,):
                found[f"fed{len(found)}"] = tuple(tensor.shape)

        for owner, name in self._places():
            getattr(owner, name).register_forward_hook(note)
        with torch.no_grad():
            self.detector(torch.zeros(1, 3, *size_hw, device="meta"), torch.tensor([size_hw], device="meta"))
        return found

    def cut(self) -> "_Rest":
        """Put what is fed in the place of the layers, and return this module."""
        for owner, name in self._places():
            kept = owner is self.detector.fpn.output or name == "box_head"
            setattr(owner, name, _Fed(self.tape, outputs=2 if name == "box_head" else 1, keep_read=kept))
        self.detector.backbone = _Levels(len(self.detector.fpn.lateral))  # type: ignore[assignment]
        self.detector.rpn.conv = nn.Identity()  # type: ignore[assignment]
        return self

    def _places(self) -> list[tuple[nn.Module, str]]:
        fpn, rpn = self.detector.fpn, self.detector.rpn
        levels: list[tuple[nn.Module, str]] = [(part, str(at)) for part in (fpn.lateral, fpn.output) for at in range(len(part))]
        return [*levels, (rpn, "objectness"), (rpn, "deltas"), (self.detector, "box_head")]

    def forward(self, sizes_hw: Tensor, *fed: Tensor) -> tuple[Tensor, ...]:
        self.tape.fed, self.tape.read = list(fed), []
        found = self.detector(fed[0], sizes_hw)
        return (*found, *self.tape.read)


class _Fed(nn.Module):
    def __init__(self, tape: _Tape, *, outputs: int, keep_read: bool) -> None:
        super().__init__()
        self.tape, self.outputs, self.keep_read = tape, outputs, keep_read

    def forward(self, x: Tensor) -> Any:
        if self.keep_read:
            self.tape.read.append(x)
        given = [self.tape.fed.pop(0) for _ in range(self.outputs)]
        return tuple(given) if self.outputs > 1 else given[0]


class _Levels(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x] * self.count
