"""Statistics of a student that an action has changed, on the nano run's base."""

from pathlib import Path

import pytest
import torch

from jdnas.config import resolve
from jdnas.models.bound import materialize
from jdnas.pipeline.norms import with_fresh_statistics
from jdnas.pipeline.prune import open_detector
from tests.pipeline.conftest import NANO, NanoRun

pytestmark = pytest.mark.slow


def test_statistics_are_those_of_the_student_and_weights_stay(nano_run: NanoRun) -> None:
    base = nano_run.folder / "base" / "base.safetensors"
    given = {"data": str(nano_run.folder / "shapes"), "weights": str(base), "student": {"bn_images": 5}}
    context, state = open_detector(resolve(str(NANO), given), base)
    wrong = {name: tensor + 3.0 if name.endswith("running_mean") else tensor for name, tensor in state.items()}
    fresh = with_fresh_statistics(context, context.base_spec, wrong)
    assert set(fresh) == set(state)
    assert all(torch.equal(fresh[name], state[name]) for name in state if "running" not in name)

    images = torch.cat(list(context.calibration_images(5)))
    seen = {}
    detector = materialize(context.base_spec, state)
    detector.backbone.stem.conv.register_forward_hook(lambda module, inputs, output: seen.update(stem=output))
    with torch.no_grad():
        detector.features(images)
    assert len(images) == 5
    torch.testing.assert_close(fresh["backbone.stem.norm.running_mean"], seen["stem"].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)

    off = resolve(str(NANO), given | {"student": {"bn_images": 0}})
    context, _ = open_detector(off, Path(base))
    assert with_fresh_statistics(context, context.base_spec, wrong) is wrong
