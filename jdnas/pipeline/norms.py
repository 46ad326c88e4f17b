"""Batch norm statistics of a student that an action has changed."""

from jdnas.models.bound import materialize
from jdnas.models.weights import State
from jdnas.pipeline.context import Context
from jdnas.spec import DetectorSpec
from jdnas.teacher.calibrate import recalibrate


def with_fresh_statistics(context: Context, spec: DetectorSpec, state: State) -> State:
    """Return `state` with the running statistics that its own activations have on the first `student.bn_images` training images.

    The inherited ones are those of activations that also had the channels and blocks that are gone: a pruned detector may find
    nothing with them and nearly everything without (docs/pruning.md). With `student.bn_images` 0 nothing changes.
    """
    count = min(context.config.student.bn_images, len(context.train.records))
    if not count:
        return state
    images = context.calibration_images(count, context.base_size_hw, spec.traits)
    fresh = recalibrate(materialize(spec, state, context.device), images).state_dict()
    return {name: tensor.cpu() for name, tensor in fresh.items()}
