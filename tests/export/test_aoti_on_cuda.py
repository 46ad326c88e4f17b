"""Sessions of packages for CUDA, on a stand-in for the package and for the device."""

import numpy as np
import pytest
import torch

from export.aot_inductor import DEVICE
from export.aoti_session import AotiSession
from export.tensors import TENSORS, text_from_kinds
from tests.export.host_device import HostDevice

KIND = {"x": ((2,), np.float32)}
FEEDS = {"x": np.ones(2, np.float32)}


class Package:
    """Gives back what it gets, and notes whether TF32 was allowed."""

    def __init__(self):
        self.tf32 = []

    def get_metadata(self):
        return {TENSORS: text_from_kinds(KIND, KIND), DEVICE: "cuda"}

    def __call__(self, *inputs):
        self.tf32.append(torch.backends.cudnn.allow_tf32)
        return inputs


@pytest.fixture
def package(monkeypatch, tmp_path):
    made = Package()
    (tmp_path / "a.pt2").touch()
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda path: made)
    monkeypatch.setattr("export.aoti_session.CudaDevice", HostDevice)
    monkeypatch.setattr(AotiSession, "_placed", lambda session, feeds: [torch.from_numpy(feeds["x"])])
    return made


def test_fp32_is_not_rounded_to_tf32(package, tmp_path):
    session = AotiSession(tmp_path / "a.pt2")
    session.run(FEEDS)
    session.bind(FEEDS)()
    session.close()
    assert package.tf32 == [False] * 3 and torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("captures", [True, False])
def test_a_graph_is_said_to_be_replayed_where_it_is(package, tmp_path, monkeypatch, captures):
    monkeypatch.setattr(HostDevice, "captured", lambda device, launch: (launch, captures))
    session = AotiSession(tmp_path / "a.pt2")
    assert not session.info.cuda_graph
    session.bind(FEEDS)
    session.close()
    assert session.info.cuda_graph == captures
