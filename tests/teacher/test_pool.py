import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jdnas.distill.teacher import Teacher
from jdnas.errors import CheckpointError, ConfigError
from jdnas.models.bound import BoundDetector, materialize
from jdnas.models.detector import Detector, build
from jdnas.models.weights import cut
from jdnas.spec import DetectorSpec
from jdnas.teacher.pool import TEACHERS_IN_MEMORY, Calibration, TeacherPool, load_pool
from jdnas.teacher.settings import PhaseSettings, PoolSettings
from jdnas.teacher.space import make_space

CPU = torch.device("cpu")
RUNNING = ("running_mean", "running_var")


def make_pool(small: DetectorSpec, folder: Path | None = None) -> TeacherPool:
    space = make_space(small, PoolSettings(widths=(1.0, 1.5), phases=(PhaseSettings(widths=(1.0, 1.5)),)))
    torch.manual_seed(0)
    return TeacherPool(space, build(space.largest).state_dict(), ("a", "b"), folder)


class Source:
    """Calibration images of one resolution, which counts how often they were asked for."""

    def __init__(self, side: int = 64) -> None:
        self.side, self.asked = side, 0

    def __call__(self) -> Iterator[torch.Tensor]:
        self.asked += 1
        generator = torch.Generator().manual_seed(self.side)
        yield from (torch.randn(4, 3, self.side, self.side, generator=generator) * 2 + 1 for _ in range(2))

    @property
    def calibration(self) -> Calibration:
        return Calibration((self.side, self.side), 8, self)


def test_pool_survives_the_disk(small: DetectorSpec, tmp_path: Path) -> None:
    pool = make_pool(small)
    pool.save(tmp_path / "pool", {"note": 1})
    loaded = load_pool(tmp_path / "pool", ("a", "b"))
    assert loaded.space == pool.space
    assert all(torch.equal(loaded.state[name], tensor) for name, tensor in pool.state.items())
    assert loaded.version == pool.version


def test_teacher_differs_from_its_cut_only_in_statistics(small: DetectorSpec) -> None:
    pool = make_pool(small)
    spec = pool.space.smallest
    teacher, views = pool.extract(spec, Source().calibration, CPU).state_dict(), cut(pool.state, spec)
    changed = {name for name in views if not torch.equal(teacher[name], views[name])}
    assert changed == {name for name in views if name.endswith(RUNNING)}


def test_cut_teacher_equals_its_materialized_copy_bit_for_bit(small: DetectorSpec) -> None:
    pool = make_pool(small)
    pixels, sizes = torch.randn(2, 3, 64, 64), torch.tensor([[64, 64], [64, 64]])
    for spec in (pool.space.smallest, pool.space.largest):
        borrowed = BoundDetector(spec, pool.state).call("features", pixels, training=False)
        copied = materialize(spec, pool.state).features(pixels)
        assert all(torch.equal(a, b) for a, b in zip(borrowed, copied, strict=True))
        found = BoundDetector(spec, pool.state).call("forward", pixels, sizes, training=False)
        assert all(torch.equal(a, b) for a, b in zip(found, materialize(spec, pool.state)(pixels, sizes), strict=True))


def test_teacher_in_memory_is_shared_and_the_pool_stays_untouched(small: DetectorSpec) -> None:
    pool, source = make_pool(small), Source()
    before = {name: tensor.clone() for name, tensor in pool.state.items()}
    found: list[Detector] = []
    threads = [threading.Thread(target=lambda: found.append(pool.extract(pool.space.smallest, source.calibration, CPU))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(teacher is found[0] for teacher in found) and len(found) == 4 and source.asked == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in pool.state.items())


def test_resolutions_share_the_weights_and_not_the_statistics(small: DetectorSpec) -> None:
    pool, coarse, fine = make_pool(small), Source(64), Source(128)
    first = pool.extract(pool.space.smallest, coarse.calibration, CPU)
    kept = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    second = pool.extract(pool.space.smallest, fine.calibration, CPU)
    assert first is not second
    for name, tensor in second.state_dict().items():
        shared = tensor.data_ptr() == first.state_dict()[name].data_ptr()
        assert shared == (tensor.is_floating_point() and not name.endswith(RUNNING)), name
        assert torch.equal(first.state_dict()[name], kept[name])
    fresh = make_pool(small).extract(pool.space.smallest, fine.calibration, CPU)
    assert all(torch.equal(tensor, fresh.state_dict()[name]) for name, tensor in second.state_dict().items())


def test_teachers_in_half_precision_share_weights_and_have_full_statistics(small: DetectorSpec) -> None:
    pool, coarse, fine = make_pool(small), Source(64).calibration, Source(128).calibration
    halves = [pool.extract(pool.space.smallest, calibration, CPU, half=True).state_dict() for calibration in (coarse, fine)]
    fulls = [pool.extract(pool.space.smallest, calibration, CPU).state_dict() for calibration in (coarse, fine)]
    for half, full in zip(halves, fulls, strict=True):
        assert half["fpn.output.0.weight"].dtype == torch.bfloat16
        assert all(torch.equal(half[name], full[name]) for name in full if name.endswith(RUNNING))
    shared = [name for name, tensor in halves[0].items() if tensor.data_ptr() == halves[1][name].data_ptr()]
    assert "fpn.output.0.weight" in shared and not any(name.endswith(RUNNING) for name in shared)


def test_using_a_teacher_keeps_its_weights_shared(small: DetectorSpec) -> None:
    pool = make_pool(small)
    sources = {(side, side): Source(side).calibration for side in (64, 128)}
    teacher = Teacher(small, lambda size_hw: pool.extract(small, sources[size_hw], CPU), small)
    for side in (64, 128):
        teacher.teach(torch.zeros(1, 3, side, side), torch.tensor([[side, side]]))
    first, second = (pool.extract(small, calibration, CPU).state_dict() for calibration in sources.values())
    assert first["backbone.stem.conv.weight"].data_ptr() == second["backbone.stem.conv.weight"].data_ptr()


def test_memory_holds_few_teachers(small: DetectorSpec) -> None:
    pool, source = make_pool(small), Source()
    for spec in (pool.space.largest, *pool.space.neighbours(pool.space.largest)[:TEACHERS_IN_MEMORY]):
        pool.extract(spec, source.calibration, CPU)
    assert len(pool._teachers) == TEACHERS_IN_MEMORY
    assert (pool.space.largest.key, "cpu", False) not in pool._teachers


def test_statistics_on_disk_are_read_by_the_next_process(small: DetectorSpec, tmp_path: Path) -> None:
    source = Source()
    first = make_pool(small, tmp_path).extract(make_pool(small).space.smallest, source.calibration, CPU)
    again = make_pool(small, tmp_path).extract(first.spec, source.calibration, CPU)
    assert source.asked == 1
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_statistics_of_another_pool_version_resolution_or_count_are_not_taken(small: DetectorSpec, tmp_path: Path) -> None:
    source = Source()
    pool = make_pool(small, tmp_path)
    pool.extract(pool.space.smallest, source.calibration, CPU)
    pool.extract(pool.space.smallest, replace(source.calibration, size_hw=(64, 96)), CPU)
    pool.extract(pool.space.smallest, replace(source.calibration, count=4), CPU)
    other = make_pool(small, tmp_path)
    other.state["backbone.stem.conv.weight"][0, 0, 0, 0] += 1
    assert other.version != pool.version
    other.extract(pool.space.smallest, source.calibration, CPU)
    assert source.asked == 4


def test_damaged_statistics_are_computed_again(small: DetectorSpec, tmp_path: Path) -> None:
    source = Source()
    first = make_pool(small, tmp_path).extract(make_pool(small).space.smallest, source.calibration, CPU)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    again = make_pool(small, tmp_path).extract(first.spec, source.calibration, CPU)
    assert source.asked == 2
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_pool_of_other_classes_is_refused(small: DetectorSpec, tmp_path: Path) -> None:
    make_pool(small).save(tmp_path / "pool", {})
    with pytest.raises(CheckpointError, match=r"trained for classes \['a', 'b'\], the data has \['a', 'c'\]"):
        load_pool(tmp_path / "pool", ("a", "c"))


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_truncated_pool_is_refused(small: DetectorSpec, tmp_path: Path, suffix: str) -> None:
    make_pool(small).save(tmp_path / "pool", {})
    path = tmp_path / f"pool{suffix}"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated|not valid JSON"):
        load_pool(tmp_path / "pool")


def edited(folder: Path, change: dict[str, Any]) -> Path:
    path = folder / "pool.json"
    header = json.loads(path.read_text())
    header["meta"]["pool"] |= change
    path.write_text(json.dumps(header))
    return folder / "pool"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "no teacher pool of version 2 .got 1."),
        ({"unit": {"version": 99}}, "spec version 99 cannot be read"),
        ({"unit": None}, "space is malformed"),
        ({"max_depths": [3, 3]}, "space is malformed|does not lead"),
        ({"factors": []}, "space is malformed"),
        ({"factors": [1.0, 2.0]}, "does not lead to the spec of its weights"),
    ],
)
def test_malformed_pool_is_refused(small: DetectorSpec, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    make_pool(small).save(tmp_path / "pool", {})
    with pytest.raises(CheckpointError, match=message):
        load_pool(edited(tmp_path, change))


def test_pool_of_another_spec_version_is_refused(small: DetectorSpec, tmp_path: Path) -> None:
    make_pool(small).save(tmp_path / "pool", {})
    path = tmp_path / "pool.json"
    header = json.loads(path.read_text())
    header["spec"]["version"] = 99
    path.write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match="spec version 99 cannot be read.*train the pool again"):
        load_pool(tmp_path / "pool")


def test_detector_that_is_no_pool_is_refused(small: DetectorSpec, tmp_path: Path) -> None:
    from jdnas.training.checkpoint import save_detector

    save_detector(tmp_path / "net", small, build(small).state_dict(), {})
    with pytest.raises(CheckpointError, match="no teacher pool of version 2 .got None."):
        load_pool(tmp_path / "net")


def test_teacher_smaller_than_anything_legal_is_refused(small: DetectorSpec) -> None:
    pool = make_pool(small)
    tiny = small.with_stage(2, replace(small.stages[2], inner=small.stages[2].inner[:1]))
    with pytest.raises(ConfigError, match="stage 2 with 1 blocks is smaller than any subnet of this pool; it has 2 to 3"):
        pool.extract(tiny, Source().calibration, CPU)
    with pytest.raises(ConfigError, match="no subnet of a pool of"):
        pool.extract(replace(small, num_classes=5), Source().calibration, CPU)
