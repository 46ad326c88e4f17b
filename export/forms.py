"""Which form of the detection head each runtime gets; all forms give the same detections.

Measured on the parts alone (docs/runtimes.md): gathers beat the RoiAlign operator several times over on ONNX Runtime's CPU provider and
lose as clearly on its CUDA provider, whose RoiAlign is one kernel. TensorRT would need a plugin for RoiAlign, and AOTInductor
compiles gathers and weighted sums into one kernel.
"""

from dataclasses import replace

from jdnas.models.forms import EXPORT, Forms

_FORMS = {
    "ort-cpu": EXPORT,
    "ort-cuda": replace(EXPORT, roi="atlas"),
    "openvino": replace(EXPORT, roi="atlas"),
    "aoti": EXPORT,
    "tensorrt": EXPORT,
    "tensorrt-rtx": EXPORT,
}


def forms_for(runtime: str) -> Forms:
    """Return the forms of the data-dependent steps that are fastest on a runtime."""
    return _FORMS[runtime]
