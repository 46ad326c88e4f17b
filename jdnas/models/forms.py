"""The interchangeable implementations of the detector's data-dependent steps."""

from dataclasses import dataclass

from jdnas.models.deform import DeformForm
from jdnas.models.nms import NmsForm, TopkForm
from jdnas.models.roi_align import RoiForm


@dataclass(frozen=True, slots=True)
class Forms:
    """Which implementation each step uses; all of them give the same detections.

    The defaults run eagerly and equal torchvision without bounds. "fixed_point", "gather" and "blockwise" have static shapes and
    standard operators only: there, `nms_iterations` is the longest chain of suppressions that is resolved, and the per-class
    suppression looks at the `detection_candidates` best class scores of an image. Where the samples of a RoI bin are as many as its
    pixels, "gather" takes at most `roi_samples` per direction: exact for RoIs up to 7 times as many map pixels high and wide. It gathers
    `roi_values_at_once` values before it sums them (None: 64 million).
    """

    nms: NmsForm = "greedy"
    roi: RoiForm = "eager"
    topk: TopkForm = "direct"
    deform: DeformForm = "operator"
    nms_iterations: int = 16
    detection_candidates: int = 1000
    roi_samples: int = 8
    roi_values_at_once: int | None = None


EAGER = Forms()
EXPORT = Forms(nms="fixed_point", roi="gather", topk="blockwise", deform="gather")
