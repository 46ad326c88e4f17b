import sys

import numpy as np
import onnx
import pytest
import torch

from export.ort_session import OrtSession, physical_cores
from export.runners import open_runner, predictor
from jdnas.errors import CheckpointError, InputError, MissingExtraError, TargetError


def _feeds(tiny, batch=2):
    rng = np.random.default_rng(0)
    height, width = tiny.size_hw
    images = rng.standard_normal((batch, 3, height, width)).astype(np.float32)
    return images, np.array([[height, width]] * batch, np.int64)


def test_metadata_comes_back(tiny):
    with open_runner(tiny.path) as runner:
        info = runner.metadata
    assert info.spec == tiny.spec
    assert (info.classes, info.size_hw, info.batch, info.precision) == (tiny.classes, tiny.size_hw, 2, "fp32")
    assert info.provenance == {"run": "test"}


def test_normalization_is_in_the_file(tiny):
    properties = {entry.key: entry.value for entry in onnx.load(tiny.path).metadata_props}
    assert properties["jdnas.mean"] == "[0.485, 0.456, 0.406]"
    assert properties["jdnas.std"] == "[0.229, 0.224, 0.225]"


def test_bound_call_runs_like_run(tiny):
    with open_runner(tiny.path, threads=1) as runner:
        runner.bind(*_feeds(tiny))()
        assert runner.runtime.threads == 1
        outputs = runner.run(*_feeds(tiny))
    shapes = {name: array.shape for name, array in outputs.items()}
    assert shapes == {"boxes": (2, 20, 4), "scores": (2, 20), "labels": (2, 20), "count": (2,)}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_predictor_takes_any_batch(tiny, batch):
    images, sizes = _feeds(tiny, 3)
    with open_runner(tiny.path) as runner:
        predict = predictor(runner)
        all_of_them = predict(torch.from_numpy(images), torch.from_numpy(sizes))
        some = predict(torch.from_numpy(images[:batch]), torch.from_numpy(sizes[:batch]))
    assert some.boxes_xyxy.shape == (batch, 20, 4)
    assert some.count.tolist() == all_of_them.count[:batch].tolist()
    torch.testing.assert_close(some.scores, all_of_them.scores[:batch], atol=1e-5, rtol=0)


def test_wrong_shape_and_type(tiny):
    images, sizes = _feeds(tiny)
    with open_runner(tiny.path) as runner:
        with pytest.raises(InputError, match=r"'images' must be \[2, 3, 64, 96\] float32, got \[1, 3, 64, 96\]"):
            runner.run(images[:1], sizes)
        with pytest.raises(InputError, match="'sizes_hw' must be .* int64"):
            runner.run(images, sizes.astype(np.int32))


def test_closed_runner(tiny):
    runner = open_runner(tiny.path)
    runner.close()
    with pytest.raises(ValueError, match="closed"):
        runner.run(*_feeds(tiny))


def test_broken_files(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        open_runner(tmp_path / "none.onnx")
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(tiny.path.read_bytes()[: tiny.path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="truncated.onnx"):
        open_runner(truncated)
    model = onnx.load(tiny.path)
    del model.metadata_props[:]
    stranger = tmp_path / "stranger.onnx"
    onnx.save(model, stranger)
    with pytest.raises(CheckpointError, match="was not exported by this jdnas"):
        open_runner(stranger)


def test_missing_runtime(tiny, monkeypatch):
    with pytest.raises(TargetError, match="known: ort-cpu, ort-cuda"):
        open_runner(tiny.path, "openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime' .*jdnas\[cpu\]"):
        open_runner(tiny.path)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime-gpu' .*jdnas\[gpu\]"):
        open_runner(tiny.path, "ort-cuda")


def test_build_without_cuda(tiny, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(TargetError, match=r"needs CUDAExecutionProvider.*jdnas\[gpu\]"):
        open_runner(tiny.path, "ort-cuda")


def test_default_threads_are_the_physical_cores(tiny):
    assert OrtSession(tiny.path).info.threads == physical_cores() >= 1
