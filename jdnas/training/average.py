"""The exponential moving average of a training's weights."""

import torch
from torch import Tensor

from jdnas.models.weights import State


class Average:
    """Keeps `decay * average + (1 - decay) * weights` of every floating tensor of a state, running statistics included.

    Early on the decay is at most (1 + n) / (10 + n) after n steps, as in TensorFlow, so that the average leaves its start behind.
    """

    def __init__(self, state: State, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in state.items() if tensor.is_floating_point()}

    @torch.no_grad()
    def update(self, state: State, steps: int) -> None:
        """Take in the weights after `steps` steps."""
        weight = 1.0 - min(self.decay, (1 + steps) / (10 + steps))
        names = list(self.tensors)
        torch._foreach_lerp_([self.tensors[name] for name in names], [state[name].detach() for name in names], weight)

    def of(self, state: State) -> dict[str, Tensor]:
        """Return the averaged tensors, and the others of `state`."""
        return {**state, **self.tensors}
