"""Detectors exported for a target: the file that its runtime loads, with the forms of the head that are fastest there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jdnas.spec import DetectorSpec
from latency.blocks import SizeHW
from latency.targets import Target

if TYPE_CHECKING:  # a file that is there already takes no PyTorch
    from jdnas.models.weights import State


def export_path(stem: str, folder: Path, target: Target) -> Path:
    """Return where the export of a detector for a target is; files of one runtime or precision do not stand for another's."""
    kind = f"{stem}{suffix_of(target)}"
    return folder / (f"{kind}_{target.processor}.pt2" if target.runtime == "aoti" else f"{kind}.onnx")


def suffix_of(target: Target) -> str:
    """Return what the name of a file says of runtime and precision: nothing for ONNX Runtime on the CPU in fp32."""
    return "" if (target.runtime, target.precision) == ("ort-cpu", "fp32") else f"_{target.runtime}_{target.precision}"


def export_for(target: Target, spec: DetectorSpec, state: "State", *, size_hw: SizeHW, batch: int, path: Path,
               classes: Sequence[str]) -> Path:  # fmt: skip
    """Export a detector in the target's precision for its runtime, to what `export_path` returned."""
    if target.runtime == "aoti":
        from export.aot_inductor import export_package

        return export_package(
            state, spec, size_hw=size_hw, batch=batch, path=path, classes=classes, precision=target.precision,
            device="cpu" if target.processor == "cpu" else "cuda",
        )  # fmt: skip
    from export.forms import forms_for
    from export.graph import export_onnx

    return export_onnx(state, spec, size_hw=size_hw, batch=batch, path=path, classes=classes, precision=target.precision,
                       forms=forms_for(target.runtime))  # fmt: skip
