"""What can be set about artifacts: precision, input form, tolerances of the parity check, int8. Nothing heavy is imported here."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from export.artifact import InputForm
from jdnas.settings import Settings

Style = Literal["cpu", "tensorrt"]
Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far detections may differ: box coordinates in pixels, scores, and AP (0..1). `score_threshold` is the detector's.

    `unmatched` is the share of detections that may lack a partner: where an overlap lies on the threshold of a suppression, the last bit
    decides. One in two thousand was seen on real images. `moved` limits `export.parity.disagreement`. None judges nothing: rounding to
    few bits lets single detections go far and yet keeps what counts.
    """

    box_px: float | None = 0.1
    score: float | None = 1e-3
    ap: float = 5e-4
    unmatched: float | None = 2e-3
    moved: float | None = None
    score_threshold: float = 0.05


TOLERANCES = {
    "fp32": Tolerances(),
    "fp16": Tolerances(box_px=None, score=None, ap=1e-3, unmatched=None, moved=0.02),
    "int8": Tolerances(box_px=None, score=None, ap=3e-3, unmatched=None, moved=0.2),
}


def tolerances_of(precision: str, ap: float | None = None) -> Tolerances:
    """Return the tolerances of a precision, with another limit of |dAP| if given."""
    limits = TOLERANCES[precision]
    return limits if ap is None else replace(limits, ap=ap)


@dataclass(frozen=True, slots=True)
class Int8Settings:
    """How ranges are found and what the runtime wants.

    `method`: the extremes of all images, the range without the outermost `100 - percentile` percent, or that of least divergence.
    `style`: "cpu" has asymmetric uint8 activations, int32 biases and int8 between layers, which ONNX Runtime fuses; "tensorrt" has
    symmetric int8 activations, Q/DQ at the inputs of layers only, float weights and biases, and half for the rest, which TensorRT takes.
    `reduce_range`: weights of 7 bits, for x86 processors without VNNI, whose int16 sums would saturate; None decides for this one.
    """

    method: Method = "percentile"
    percentile: float = 99.99
    style: Style = "cpu"
    reduce_range: bool | None = None

    @property
    def seven_bits(self) -> bool:
        """Whether weights get 7 bits."""
        return _saturates() if self.reduce_range is None and self.style == "cpu" else bool(self.reduce_range)


class ExportSettings(Settings):
    """The artifacts that leave.

    `precision`: that of the target, a certain one, or auto: of those that pass the parity check the fastest on the target. `input`: what
    the artifact takes (docs/export.md). `calibration`: how int8 finds the ranges of activations, on `calibration_images` training images;
    `ranking_images` tell which layers are too sensitive for it. `max_delta_ap_*`: how far the AP of an artifact may be from PyTorch's.
    """

    precision: Literal["target", "fp32", "fp16", "int8", "auto"] = "target"
    input: InputForm = "normalized"
    calibration: Method = "percentile"
    calibration_images: int = Field(128, ge=1)
    ranking_images: int = Field(8, ge=1)
    max_delta_ap_fp32: float = Field(TOLERANCES["fp32"].ap, ge=0)
    max_delta_ap_fp16: float = Field(TOLERANCES["fp16"].ap, ge=0)
    max_delta_ap_int8: float = Field(TOLERANCES["int8"].ap, ge=0)

    @property
    def limits(self) -> dict[str, Tolerances]:
        """The tolerances of each precision."""
        differences = {"fp32": self.max_delta_ap_fp32, "fp16": self.max_delta_ap_fp16, "int8": self.max_delta_ap_int8}
        return {name: tolerances_of(name, ap) for name, ap in differences.items()}


def _saturates() -> bool:
    # x86 without VNNI adds pairs of 8-bit products in 16 bits.
    flags = Path("/proc/cpuinfo")
    if sys.platform != "linux" or not flags.is_file():
        return False
    text = flags.read_text(encoding="utf-8", errors="replace")
    return "avx2" in text and "vnni" not in text
