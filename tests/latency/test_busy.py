from types import SimpleNamespace

import pytest

from latency import busy
from latency.busy import Quiet, begin_watch, disturbances, end_watch, look_around
from latency.gpus import GpuState


def test_a_busy_cpu_and_gpu_are_named(monkeypatch):
    monkeypatch.setattr(busy.psutil, "cpu_percent", lambda interval: 63.0)
    monkeypatch.setattr(busy, "gpu_state", lambda: GpuState("NVIDIA T4", "580", 1000, 5000, 40, (), (7, 9)))
    quiet = look_around(gpu=True)
    assert quiet.warnings == ["other processes use 63 % of the CPU", "other processes are on the GPU: 7, 9"]
    assert look_around(gpu=False).warnings == ["other processes use 63 % of the CPU"]
    assert Quiet(3.0, 0.1, ()).warnings == []


def test_throttling_of_the_cpu_and_stolen_time(monkeypatch, tmp_path):
    folder = tmp_path / "devices/system/cpu/cpu0/thermal_throttle"
    folder.mkdir(parents=True)
    count = folder / "core_throttle_count"
    count.write_text("3\n")
    times = iter([(100.0, 5.0), (190.0, 15.0)])

    def cpu_times():
        idle, steal = next(times)
        return type("Times", (tuple,), {"steal": steal})((idle, steal))

    monkeypatch.setattr(busy, "SYSTEM", tmp_path)
    monkeypatch.setattr(busy.psutil, "cpu_times", cpu_times)
    monkeypatch.setattr(busy.psutil, "cpu_freq", lambda: SimpleNamespace(current=2599.6))
    watch = begin_watch(gpu=False)
    count.write_text("4\n")
    facts = end_watch(watch, gpu=False)
    assert facts == {"throttled": True, "throttled_by": ["CPU thermal throttling"], "stolen_percent": 10.0, "cpu_mhz": 2600}
    assert disturbances(Quiet(1.0, 0.0, ()), facts) == [
        "the device lowered its clocks: CPU thermal throttling",
        "the hypervisor took 10 % of the CPU's time",
    ]


@pytest.mark.parametrize(("reasons", "throttled"), [((), False), (("SwPowerCap",), True)])
def test_throttling_of_the_gpu(monkeypatch, reasons, throttled):
    states = iter([GpuState("g", "1", 1500, 5000, 40, (), ()), GpuState("g", "1", 1200, 5000, 80, reasons, ())])
    monkeypatch.setattr(busy, "gpu_state", lambda: next(states))
    facts = end_watch(begin_watch(gpu=True), gpu=True)
    assert (facts["throttled"], facts["gpu_clocks_mhz"]) == (throttled, [[1500, 5000], [1200, 5000]])
    assert facts["throttled_by"] == list(reasons)


def test_where_throttling_cannot_be_seen_it_is_not_denied(monkeypatch, tmp_path):
    monkeypatch.setattr(busy, "SYSTEM", tmp_path)
    assert end_watch(begin_watch(gpu=False), gpu=False)["throttled"] is None
    monkeypatch.setattr(busy, "gpu_state", lambda: GpuState("g", "1", 1500, 5000, 40, (), (), tells_throttling=False))
    assert end_watch(begin_watch(gpu=True), gpu=True)["throttled"] is None
