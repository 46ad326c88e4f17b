import os
import sys
from types import SimpleNamespace

import pytest

from jdnas.errors import TargetError
from latency.gpus import gpu_state, locked_clocks


class Refused(Exception):
    pass


def fake_nvml(log, **changes):
    """A driver with one GPU whose power cap lowers its clocks."""

    def refuse(*_):
        raise Refused("Insufficient Permissions")

    functions = {
        "NVMLError": Refused, "NVML_CLOCK_GRAPHICS": 0, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0,
        "nvmlClocksEventReasonSwPowerCap": 4, "nvmlClocksThrottleReasonHwSlowdown": 8, "nvmlInit": lambda: log.append("init"),
        "nvmlShutdown": lambda: log.append("shutdown"), "nvmlDeviceGetHandleByIndex": lambda index: ("index", index),
        "nvmlDeviceGetHandleByUUID": lambda uuid: ("uuid", uuid), "nvmlDeviceGetName": lambda handle: f"NVIDIA H100 {handle[1]}".encode(),
        "nvmlSystemGetDriverVersion": lambda: "580.1", "nvmlDeviceGetClockInfo": lambda handle, kind: (1500, None, 2619)[kind],
        "nvmlDeviceGetTemperature": refuse, "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 4,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [SimpleNamespace(pid=os.getpid()), SimpleNamespace(pid=77)],
        "nvmlDeviceSetGpuLockedClocks": lambda handle, low, high: log.append((low, high)),
        "nvmlDeviceResetGpuLockedClocks": lambda handle: log.append("reset"), "refuse": refuse,
    }  # fmt: skip
    return SimpleNamespace(**(functions | changes))


@pytest.fixture
def nvml(monkeypatch):
    log = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(**changes):
        module = fake_nvml(log, **changes)
        monkeypatch.setitem(sys.modules, "pynvml", module)
        return module

    return install, log


def test_state_of_the_gpu(nvml):
    install, log = nvml
    install()
    state = gpu_state()
    assert (state.name, state.driver, state.graphics_mhz, state.memory_mhz) == ("NVIDIA H100 0", "580.1", 1500, 2619)
    assert state.temperature_c is None  # refused
    assert state.throttled_by == ("SwPowerCap",)
    assert state.other_processes == (77,)
    assert log == ["init", "shutdown"]


def test_what_lowers_the_clocks_under_its_older_name_or_unknown(nvml):
    install, _ = nvml
    refuse = install().refuse
    assert gpu_state().tells_throttling
    install(nvmlDeviceGetCurrentClocksEventReasons=refuse, nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 8)
    assert (gpu_state().throttled_by, gpu_state().tells_throttling) == (("HwSlowdown",), True)
    install(nvmlDeviceGetCurrentClocksEventReasons=refuse)
    assert (gpu_state().throttled_by, gpu_state().tells_throttling) == ((), False)


@pytest.mark.parametrize(("visible", "name"), [("2,3", "NVIDIA H100 2"), ("GPU-ab12", "NVIDIA H100 GPU-ab12"), ("-1", None), ("", None)])
def test_the_gpu_is_the_first_visible_one(nvml, monkeypatch, visible, name):
    nvml[0]()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    state = gpu_state()
    assert (state.name if state else None) == name


def test_no_driver_and_no_package(nvml, monkeypatch):
    def broken():
        raise Refused("Driver Not Loaded")

    nvml[0](nvmlInit=broken)
    assert gpu_state() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_state() is None
    with pytest.raises(TargetError, match="NVML finds no GPU; install: pip install nvidia-ml-py"), locked_clocks(1380):
        pass


def test_clocks_are_held_and_given_back(nvml):
    install, log = nvml
    install()
    with pytest.raises(KeyError), locked_clocks(1380):
        assert log == ["init", (1380, 1380)]
        raise KeyError
    assert log == ["init", (1380, 1380), "reset", "shutdown"]
    log.clear()
    with locked_clocks(None):
        assert not log


def test_no_permission_for_clocks(nvml):
    install, log = nvml
    module = install()
    module.nvmlDeviceSetGpuLockedClocks = module.refuse
    with pytest.raises(TargetError, match="may not set the clocks of the GPU .Insufficient Permissions.; .*nvidia-smi -lgc 1380"), \
            locked_clocks(1380):  # fmt: skip
        pass
    assert log == ["init", "shutdown"]
