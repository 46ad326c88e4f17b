"""What every runner must do; a runtime's tests subclass `RunnerContract` and say how its artifact is made."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from export.parity import compare
from export.runners import open_runner, predictor
from export.session import BoundCall
from jdnas.errors import CheckpointError, InputError
from tests.export.conftest import TinyEngine

BATCH = 2


def random_batches(count, size_hw, batch=BATCH):
    generator = torch.Generator().manual_seed(1)
    height, width = size_hw
    for _ in range(count):
        images = torch.randn(batch, 3, height, width, generator=generator)
        sizes = torch.stack([torch.tensor([height - 7 * i, width - 11 * i]) for i in range(batch)])
        yield SimpleNamespace(images=images, sizes_hw=sizes)


def feeds(size_hw, seed=0, batch=BATCH):
    images = np.random.default_rng(seed).standard_normal((batch, 3, *size_hw)).astype(np.float32)
    return images, np.array([size_hw] * batch, np.int64)


class RunnerContract:
    runtime = "ort-cpu"

    @pytest.fixture
    def artifact(self, tiny: TinyEngine) -> Path:
        """An artifact of the tiny detector for two images."""
        return tiny.path

    @pytest.fixture
    def runner(self, artifact):
        with open_runner(artifact, self.runtime, threads=1) as opened:
            yield opened

    def test_it_finds_what_the_pytorch_detector_finds(self, tiny, runner):
        with torch.no_grad():
            result = compare(tiny.detector, predictor(runner), random_batches(3, tiny.size_hw))
        assert result.passed, result.message
        assert result.detections > 50 and result.matched == 1.0

    def test_metadata_comes_back(self, tiny, runner):
        info = runner.metadata
        assert info.spec == tiny.spec
        assert (info.classes, info.size_hw, info.batch, info.precision) == (tiny.classes, tiny.size_hw, BATCH, "fp32")
        assert info.provenance == {"run": "test"}
        assert info.forms["nms"] == "fixed_point"
        assert runner.runtime.name == self.runtime and runner.runtime.version

    def test_outputs_have_the_shapes_and_types_of_the_contract(self, tiny, runner):
        outputs = runner.run(*feeds(tiny.size_hw))
        found = {name: (array.shape, array.dtype.name) for name, array in outputs.items()}
        detections = tiny.spec.head.detections
        assert found == {
            "boxes": ((2, detections, 4), "float32"), "scores": ((2, detections), "float32"), "labels": ((2, detections), "int64"),
            "count": ((2,), "int64"),
        }  # fmt: skip

    def test_each_run_answers_its_own_images(self, tiny, runner):
        """Buffers that stay in place must not keep what was in them."""
        first, second = (feeds(tiny.size_hw, seed) for seed in (0, 1))
        wanted = [{name: array.copy() for name, array in runner.run(*one).items()} for one in (first, second)]
        assert not np.allclose(wanted[0]["scores"], wanted[1]["scores"])
        again = runner.run(*first)
        for name, array in wanted[0].items():
            np.testing.assert_array_equal(again[name], array)

    def test_inputs_may_be_read_only(self, tiny, runner):
        """As those are that a server reads out of a request."""
        given = feeds(tiny.size_hw)
        wanted = {name: array.copy() for name, array in runner.run(*given).items()}
        for array in given:
            array.flags.writeable = False
        runner.bind(*given)()
        for name, array in runner.run(*given).items():
            np.testing.assert_array_equal(array, wanted[name])

    def test_a_bound_call_can_be_repeated_and_does_not_disturb_runs(self, tiny, runner):
        first, second = (feeds(tiny.size_hw, seed) for seed in (0, 1))
        wanted = {name: array.copy() for name, array in runner.run(*second).items()}
        call = runner.bind(*first)
        assert isinstance(call, BoundCall)
        for _ in range(3):
            call()
        assert call.device_ms is None or call.device_ms() > 0
        for name, array in runner.run(*second).items():
            np.testing.assert_allclose(array, wanted[name], atol=1e-5)

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_any_number_of_images_through_the_predictor(self, tiny, runner, count):
        images, sizes = feeds(tiny.size_hw, batch=3)
        predict = predictor(runner)
        all_of_them = predict(torch.from_numpy(images), torch.from_numpy(sizes))
        some = predict(torch.from_numpy(images[:count]), torch.from_numpy(sizes[:count]))
        assert some.count.tolist() == all_of_them.count[:count].tolist()
        torch.testing.assert_close(some.scores, all_of_them.scores[:count], atol=1e-5, rtol=0)

    def test_boxes_stay_within_the_true_size(self, tiny, runner):
        images, _ = feeds(tiny.size_hw)
        sizes = np.array([[40, 50], [64, 30]], np.int64)
        boxes = runner.run(images, sizes)["boxes"]
        for image, (height, width) in enumerate(sizes):
            assert boxes[image, :, 0::2].max() <= width and boxes[image, :, 1::2].max() <= height

    def test_wrong_shapes_and_types_are_named(self, tiny, runner):
        images, sizes = feeds(tiny.size_hw)
        for call in (runner.run, runner.bind):
            with pytest.raises(InputError, match=r"'images' must be \[2, 3, 64, 96\] float32, got \[1, 3, 64, 96\] float32"):
                call(images[:1], sizes)
            with pytest.raises(InputError, match="'images' must be .* float32, got .* float64"):
                call(images.astype(np.float64), sizes)
            with pytest.raises(InputError, match=r"'sizes_hw' must be \[2, 2\] int64, got \[2, 2\] int32"):
                call(images, sizes.astype(np.int32))

    def test_a_closed_runner_says_so(self, tiny, artifact):
        runner = open_runner(artifact, self.runtime, threads=1)
        runner.close()
        runner.close()
        with pytest.raises(ValueError, match="closed"):
            runner.run(*feeds(tiny.size_hw))

    def test_files_that_are_missing_or_broken(self, artifact, tmp_path):
        with pytest.raises(CheckpointError, match="does not exist; make one with: jdnas export"):
            open_runner(tmp_path / f"none{artifact.suffix}", self.runtime)
        broken = tmp_path / f"broken{artifact.suffix}"
        broken.write_bytes(artifact.read_bytes()[: artifact.stat().st_size // 2])
        with pytest.raises(CheckpointError, match=f"broken{artifact.suffix}"):
            open_runner(broken, self.runtime)

    def test_files_of_another_kind(self, artifact, tmp_path):
        other = tmp_path / "weights.safetensors"
        other.write_bytes(b"x")
        with pytest.raises(CheckpointError, match=rf"runtime '{self.runtime}' loads .*\{artifact.suffix}.*, got .*weights.safetensors"):
            open_runner(other, self.runtime)
