"""A detector whose training losses run as one compiled graph."""

import warnings

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError

from jdnas.errors import TrainingError
from jdnas.models.detector import Forms, LossOutput, Targets, build, padded_truth
from jdnas.models.layers import freeze_norms
from jdnas.models.weights import State
from jdnas.spec import DetectorSpec

# Without data-dependent shapes: suppression resolves chains of up to so many boxes, which training hardly ever exceeds.
TRAINING = Forms(nms="fixed_point", roi="gather", deform="gather", nms_iterations=16)
_ROWS = 16


class CompiledDetector:
    """Computes training losses as `BoundDetector` does, by `torch.compile`, on a module that owns the tensors of one state.

    `state` is filled with the module's tensors, so that what is trained is what the graph reads. Each canvas is compiled on its own when it
    comes first; ground truth is padded to multiples of 16 rows, so that the numbers of objects do not count as shapes.
    """

    def __init__(self, spec: DetectorSpec, state: State, *, frozen_norms: bool = False, backend: str = "inductor") -> None:
        device = next(iter(state.values())).device
        self._detector = build(spec, device=device, forms=TRAINING).train()
        self._detector.load_state_dict({name: state[name] for name in self._detector.state_dict()})
        if frozen_norms:
            freeze_norms(self._detector)
        # The cached anchors depend on shapes alone, so tracing through the cache is right.
        warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
        state |= self._detector.state_dict(keep_vars=True)
        self._losses = torch.compile(self._detector.losses_with, backend=backend, dynamic=False, fullgraph=True)

    def losses(self, images: Tensor, sizes_hw: Tensor, targets: Targets, generator: torch.Generator) -> LossOutput:
        """Return the training losses; see `Detector.losses`."""
        boxes, labels, valid = padded_truth(targets, _ROWS)
        drawn = self._detector.draw(images, valid.shape[1], generator)
        try:
            output: LossOutput = self._losses(images, sizes_hw, boxes, labels, valid, drawn)
        except (InductorError, TorchDynamoException) as error:
            why = str(error).strip().splitlines()[0]
            raise TrainingError(f"the training step cannot be compiled here: {why}; train without it (compile: false)") from error
        return output
