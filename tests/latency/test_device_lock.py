import threading
from contextlib import nullcontext

import pytest

from jdnas.errors import TargetError
from latency import device_lock
from latency.device_lock import exclusive_device, held_device
from latency.targets import Clocks, Target


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


def test_measurements_do_not_overlap():
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with exclusive_device("cpu"):
            entered.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert entered.wait(10)
        with (
            pytest.raises(TargetError, match=r"another measurement \(process \d+\) holds the cpu"),
            exclusive_device("cpu", timeout_s=0.1),
        ):
            pass
        with exclusive_device("gpu", timeout_s=0.1):
            pass
    finally:
        leave.set()
        holder.join()
    with exclusive_device("cpu", timeout_s=0.1):
        pass


def test_released_after_an_error():
    with pytest.raises(KeyError), exclusive_device("cpu"):
        raise KeyError
    with exclusive_device("cpu", timeout_s=0.1):
        pass


def test_a_held_device_has_the_targets_clocks(monkeypatch):
    held = []
    monkeypatch.setattr(device_lock, "locked_clocks", lambda mhz: held.append(mhz) or nullcontext())
    board = Target(name="board", device="GPU", runtime="ort-cuda", clocks=Clocks(graphics_mhz=1380))
    with held_device(board), held_device(Target(name="cpu", device="cpu", runtime="ort-cpu")):
        assert held == [1380, None]
        with pytest.raises(TargetError, match="holds the gpu"), exclusive_device("gpu", timeout_s=0.1):
            pass


def test_what_another_users_killed_process_left_does_not_matter(tmp_path):
    (tmp_path / "jdnas-measuring-cpu.owner").mkdir()  # can be neither written nor removed as a file
    with exclusive_device("cpu"):
        pass
    with exclusive_device("cpu", timeout_s=0.1):
        pass
