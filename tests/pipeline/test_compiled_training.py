"""Trainings whose step is one compiled graph, on the nano run's base and pool; the graph runs without generated code."""

from dataclasses import replace

import pytest
import torch

from jdnas.config import resolve
from jdnas.errors import ConfigError
from jdnas.models.compiled import CompiledDetector
from jdnas.pipeline.detector_training import train_detector
from jdnas.pipeline.pool import teacher_of
from jdnas.pipeline.prune import open_detector
from jdnas.teacher.pool import load_pool
from jdnas.teacher.settings import PoolSettings
from jdnas.training.distributed import Team
from jdnas.training.settings import TrainSettings
from tests.pipeline.conftest import NANO, NanoRun

pytestmark = pytest.mark.slow
COMPILED = TrainSettings(batch=4, lr=0.01, compile=True)


def test_a_student_learns_from_its_teacher_in_a_compiled_step(nano_run: NanoRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CompiledDetector.__init__.__kwdefaults__, "backend", "eager")
    base = nano_run.folder / "base" / "base.safetensors"
    config = resolve(str(NANO), {"data": str(nano_run.folder / "shapes"), "weights": str(base)})
    context, state = open_detector(config, base)
    pool = load_pool(nano_run.folder / "pool" / "pool", context.train.classes)
    teacher = teacher_of(context, pool, pool.space.largest, context.base_spec)
    trained, report = train_detector(context, context.base_spec, state, COMPILED, seed=3, teacher=teacher, steps=3)
    assert (report.steps, report.skipped) == (3, 0) and trained.keys() == state.keys()
    learned = [name for name in state if name.endswith(("conv.weight", "fc6.weight", "norm.weight", "running_mean"))]
    assert learned and not any(torch.equal(trained[name], state[name]) for name in learned)
    # One step sees the same images from the same weights; its sampled boxes differ, since rows of ground truth are padded.
    once, plain = (
        train_detector(context, context.base_spec, state, COMPILED.model_copy(update={"compile": compile}), seed=3, steps=1)[0]
        for compile in (True, False)
    )
    for name in (name for name in state if name.endswith("running_mean")):
        torch.testing.assert_close(once[name], plain[name], rtol=1e-4, atol=1e-5)

    with pytest.raises(ConfigError, match="a compiled step trains on one device"):
        train_detector(replace(context, team=Team(0, 2)), context.base_spec, state, COMPILED, seed=3, steps=1)


def test_pools_and_synchronized_norms_are_not_compiled() -> None:
    with pytest.raises(ValueError, match="every step trains other subnets"):
        PoolSettings(train=COMPILED)
    with pytest.raises(ValueError, match="a compiled step has no norm=sync"):
        TrainSettings(compile=True, norm="sync")
