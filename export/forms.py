"""Which form of the detection head each runtime gets; all forms give the same detections.

RoIAlign as gathers is 1.7 times as fast as one RoiAlign operator on ONNX Runtime's CPU provider, 2.8 times on OpenVINO
(benchmarks/results/roi_forms.json); on ONNX Runtime's CUDA provider the operator is one kernel and gathers were 2.7 times as slow as
four of them. TensorRT would need a plugin for RoiAlign, and AOTInductor compiles gathers and weighted sums into one kernel.
"""

from dataclasses import replace

from jdnas.models.forms import EXPORT, Forms

_FORMS = {
    "ort-cpu": EXPORT,
    "ort-cuda": replace(EXPORT, roi="atlas"),
    "openvino": EXPORT,
    "aoti": EXPORT,
    "tensorrt": EXPORT,
    "tensorrt-rtx": EXPORT,
}


def forms_for(runtime: str) -> Forms:
    """Return the forms of the data-dependent steps that are fastest on a runtime."""
    return _FORMS[runtime]
