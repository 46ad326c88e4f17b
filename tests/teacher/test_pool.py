from pathlib import Path

import pytest
import torch

from jdnas.errors import CheckpointError
from jdnas.models.bound import materialize
from jdnas.models.detector import build
from jdnas.models.layers import Norm
from jdnas.models.weights import cut
from jdnas.spec import DetectorSpec
from jdnas.teacher.calibrate import recalibrate
from jdnas.teacher.pool import TeacherPool, load_pool
from jdnas.teacher.settings import PhaseSettings, PoolSettings
from jdnas.teacher.space import make_space

CPU = torch.device("cpu")


def make_pool(small: DetectorSpec) -> TeacherPool:
    space = make_space(small, PoolSettings(widths=(1.0, 1.5), phases=(PhaseSettings(widths=(1.0, 1.5)),)))
    torch.manual_seed(0)
    return TeacherPool(space, build(space.largest).state_dict(), ("a", "b"))


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(4, 3, 64, 64, generator=generator) * 2 + 1 for _ in range(2)]


def test_pool_survives_the_disk(small: DetectorSpec, tmp_path: Path) -> None:
    pool = make_pool(small)
    pool.save(tmp_path / "pool", {"note": 1})
    loaded = load_pool(tmp_path / "pool", ("a", "b"))
    assert loaded.space == pool.space
    assert all(torch.equal(loaded.state[name], tensor) for name, tensor in pool.state.items())


def test_pool_of_other_classes_is_refused(small: DetectorSpec, tmp_path: Path) -> None:
    make_pool(small).save(tmp_path / "pool", {})
    with pytest.raises(CheckpointError, match="trained for classes"):
        load_pool(tmp_path / "pool", ("a", "c"))


def test_truncated_pool_is_refused(small: DetectorSpec, tmp_path: Path) -> None:
    make_pool(small).save(tmp_path / "pool", {})
    path = tmp_path / "pool.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        load_pool(tmp_path / "pool")


def test_teacher_differs_from_its_cut_only_in_statistics(small: DetectorSpec) -> None:
    pool = make_pool(small)
    spec = pool.space.smallest
    teacher, views = pool.extract(spec, images, CPU).state_dict(), cut(pool.state, spec)
    changed = {name for name in views if not torch.equal(teacher[name], views[name])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)


def test_teacher_in_memory_is_shared_and_the_pool_stays_untouched(small: DetectorSpec) -> None:
    pool = make_pool(small)
    before = {name: tensor.clone() for name, tensor in pool.state.items()}
    assert pool.extract(pool.space.smallest, images, CPU) is pool.extract(pool.space.smallest, images, CPU)
    assert all(torch.equal(before[name], tensor) for name, tensor in pool.state.items())


def test_recalibrated_statistics_are_those_of_the_images(small: DetectorSpec) -> None:
    detector = materialize(small, build(small).state_dict())
    recalibrate(detector, images())
    stem = detector.backbone.stem
    outputs = stem.conv(torch.cat(images()))
    assert isinstance(stem.norm, Norm) and stem.norm.running_mean is not None
    assert torch.allclose(stem.norm.running_mean, outputs.mean((0, 2, 3)), atol=1e-4)
    assert not any(module.training for module in detector.modules())
