"""A detector as a package of native code (.pt2), compiled by AOTInductor for the CPU or the CUDA device of this machine.

A package is a program: opening one runs what is in it, so open only those that you trust as you would trust a program.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.artifact import INPUT_NAMES, OUTPUT_NAMES, ArtifactInfo
from export.compiler import CompiledFor, check_compiler
from export.forms import forms_for
from export.graph import check_settings, deployed, halved, quiet
from export.tensors import TENSORS, text_from_kinds
from jdnas.atomic import write_atomically
from jdnas.errors import ConfigError, unknown_name
from jdnas.spec import DetectorSpec

PRECISIONS = ("fp32", "fp16")
DEVICE = "jdnas.device"


def export_package(
    state: Mapping[str, Tensor], spec: DetectorSpec, *, size_hw: tuple[int, int], batch: int = 1, path: Path, classes: Sequence[str],
    precision: str = "fp32", device: CompiledFor = "cpu", provenance: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Compile the detector of `spec` with weights `state` into `path` and return the path; inputs and outputs are those of `export_onnx`.

    With "fp16" the network runs in half, boxes and their overlaps in fp32. ConfigError for settings that cannot be exported,
    TargetError where there is no C++ compiler or no such device.
    """
    check_settings(spec, size_hw, batch, classes)
    if precision not in PRECISIONS:
        raise ConfigError(unknown_name("precision of AOTInductor", precision, PRECISIONS))
    forms = forms_for("aoti")
    detector = deployed(state, spec, forms)
    network = _Plain(halved(detector) if precision == "fp16" else detector)
    info = ArtifactInfo(spec, tuple(classes), size_hw, batch, precision, dict(provenance or {}), forms=asdict(forms))
    example = {"images": torch.zeros(batch, 3, *size_hw), "sizes_hw": torch.tensor([size_hw] * batch)}
    inputs = {name: example[name] for name in INPUT_NAMES}
    return compile_package(network, inputs, OUTPUT_NAMES, path, device=device, properties=info.to_properties())


def compile_package(
    module: nn.Module, inputs: Mapping[str, Tensor], output_names: Sequence[str], path: Path, *, device: CompiledFor = "cpu",
    properties: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Compile a module that maps `inputs`, in this order, to a tuple of tensors; the file appears whole or not at all."""
    from torch._inductor import aoti_compile_and_package  # imports much that loading a package does not need

    check_compiler(device)
    module, example = module.eval().to(device), tuple(tensor.to(device) for tensor in inputs.values())
    with torch.no_grad():
        outputs = dict(zip(output_names, module(*example), strict=True))
    kinds = [{name: (tuple(t.shape), np.dtype(str(t.dtype).split(".")[1]).type) for name, t in side.items()} for side in (inputs, outputs)]
    metadata = {**(properties or {}), TENSORS: text_from_kinds(*kinds), DEVICE: device}
    settings: dict[str, Any] = {"aot_inductor.metadata": metadata}
    if device == "cpu":  # packs the weights for the processor's kernels; threads are counted when it runs, not when it is compiled
        settings |= {"freezing": True, "cpp.dynamic_threads": True}
    with torch.no_grad(), quiet(), tempfile.TemporaryDirectory() as folder:
        program = torch.export.export(module, example, strict=False)
        made = Path(folder) / "package.pt2"
        aoti_compile_and_package(program, package_path=str(made), inductor_configs=settings)
        write_atomically(path, made.read_bytes())
    return path


class _Plain(nn.Module):
    """A detector that returns a plain tuple, which packages can hold."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, sizes_hw: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.detector(images, sizes_hw))
