"""What only a machine with a CUDA device can show; nowhere else does any of this run."""

from pathlib import Path

import pytest
import torch

from jdnas.models.detector import build
from jdnas.training.checkpoint import save_detector
from latency.benchmark import Sweep, benchmark
from latency.blocks import Block
from latency.gpus import gpu_state
from latency.here import standing
from latency.measure import measure_block, probe
from latency.repeatability import repeat
from latency.targets import Target, load_target

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _own_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


@pytest.fixture
def cuda(tmp_path) -> Path:
    path = tmp_path / "cuda.yaml"
    path.write_text("name: cuda\ndevice: NVIDIA\nruntime: ort-cuda\n")
    return path


def test_this_machine_is_the_target(cuda):
    assert standing(load_target(cuda)).measurable
    other = Target(name="other", device="NVIDIA Voodoo 2", runtime="ort-cuda")
    assert not standing(other).measurable and gpu_state().name in standing(other).reason


def test_report(fake_engine, cuda):
    report = benchmark([fake_engine], cuda, seconds=0.2)
    (row,) = report.rows
    assert row.runs_in == "ort-cuda" and 0 < row.median_ms < 100
    assert row.peak_gpu_mib is None or row.peak_gpu_mib > 0  # containers hide processes from NVML
    assert report.provenance["gpu"] == gpu_state().name
    assert report.provenance["throttled"] in (True, False)


def test_a_model_in_pytorch_and_as_an_engine(spec, tmp_path, cuda):
    save_detector(tmp_path / "small", spec, build(spec).state_dict(), {"size_hw": [64, 96]})
    rows = benchmark([tmp_path / "small.safetensors"], cuda, seconds=0.2, sweep=Sweep(as_engine=True)).rows
    assert [row.runs_in for row in rows] == ["torch", "ort-cuda"]
    assert torch.cuda.max_memory_allocated() > 0


def test_blocks_and_provenance(cuda):
    target = load_target(cuda)
    small, large = (measure_block(Block("conv 3x3/1", (w, w, side, side, 1)), target).median_ms for w, side in ((8, 8), (256, 128)))
    assert 0 < small < large
    assert probe(target)["gpu"] == gpu_state().name


def test_medians_repeat(fake_engine, cuda):
    (found,) = repeat([fake_engine], str(cuda), times=3, seconds=0.5)
    assert found.spread < 0.5
