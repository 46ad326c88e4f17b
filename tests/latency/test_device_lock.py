import threading

import pytest

from jdnas.errors import TargetError
from latency.device_lock import exclusive_device


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
