"""A detector with borrowed weights: the module of a spec called with views of a state that lives elsewhere."""

from typing import Any

import torch

from jdnas.models.detector import Detector, build, call_with
from jdnas.models.layers import freeze_norms
from jdnas.models.weights import State, cut, meta_detector
from jdnas.spec import DetectorSpec


class BoundDetector:
    """Calls detector methods with the cut of a shared state, so that gradients reach that state (paper 3.1.3).

    Running statistics are written through the views where `own_statistics` is off, and to private copies where it is on: the
    largest net of a pool keeps the pool's statistics, its subnets must not disturb them. With `frozen_norms`, norms use the running
    statistics in training too.
    """

    def __init__(self, spec: DetectorSpec, state: State, *, own_statistics: bool = False, frozen_norms: bool = False) -> None:
        self.spec, self.frozen_norms = spec, frozen_norms
        views = cut(state, spec)
        if own_statistics:
            views |= {name: t.clone() for name, t in views.items() if not t.requires_grad and ".running_" in name}
        views |= {name: t.clone() for name, t in views.items() if name.endswith("num_batches_tracked")}
        self._views = views

    def call(self, method: str, *args: Any, training: bool = True) -> Any:
        """Call `method` of the detector with this state; norms use batch statistics where `training` is set."""
        detector = meta_detector(self.spec)
        detector.train(training)
        if self.frozen_norms:
            freeze_norms(detector)
        return call_with(detector, self._views, method, *args)


def materialize(spec: DetectorSpec, state: State, device: torch.device | str = "cpu") -> Detector:
    """Build a plain detector of `spec` in evaluation mode with a copy of (the cut of) `state`."""
    detector = build(spec, device=device)
    detector.load_state_dict(cut(state, spec))
    return detector.eval().requires_grad_(False)
