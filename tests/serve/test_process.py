"""A server as its own process."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from jdnas.errors import ConfigError, MissingExtraError
from jdnas.serve.models import named_artifact
from jdnas.serve.server import ServeSettings, listen, serve
from tests.serve.conftest import CANVAS_HW

SLOW = """
import sys, time
import export.runners as runners
run = runners.EngineRunner.run
def slow(self, images, sizes_hw):
    time.sleep(float(images.max() > 50) * 1.5)
    return run(self, images, sizes_hw)
runners.EngineRunner.run = slow
from jdnas.cli import main
sys.argv = ["jdnas", "serve", sys.argv[1], "--port", "0", "--threads", "1", "--no-images"]
try:
    main()
finally:
    print("torch" if "torch" in sys.modules else "no torch", flush=True)
"""


@contextmanager
def process(engine: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-c", SLOW, str(engine)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as started:
        try:
            assert started.stdout is not None
            line = ""
            while not line.startswith("ready"):
                line = started.stdout.readline()
                assert line, started.communicate()
            yield started, int(line.split("/")[2].rpartition(":")[2])
        finally:
            started.kill()


def _infer(port: int, level: float, statuses: list[int]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    images, sizes = np.full((1, 3, *CANVAS_HW), level, "<f4"), np.array([CANVAS_HW], "<i8")
    entry = '{"name": "%s", "datatype": "%s", "shape": %s, "parameters": {"binary_data_size": %d}}'
    parts = [
        (entry % (name, kind, list(data.shape), data.nbytes))
        for name, kind, data in (("images", "FP32", images), ("sizes_hw", "INT64", sizes))
    ]
    header = f'{{"inputs": [{", ".join(parts)}]}}'.encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    connection.request("POST", "/v2/models/tiny/infer", header + images.tobytes() + sizes.tobytes(), headers)
    statuses.append(connection.getresponse().status)
    connection.close()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_after_the_requests_that_are_inside(engine: Path, end: signal.Signals) -> None:
    with process(engine) as (server, port):
        statuses: list[int] = []
        _infer(port, 0.0, statuses)
        threads = [threading.Thread(target=_infer, args=(port, 100.0, statuses)) for _ in range(2)]
        for thread in threads:
            thread.start()
        _wait_for_inside(port, 2)
        server.send_signal(end)
        for thread in threads:
            thread.join()
        out, err = server.communicate(timeout=20)
        assert statuses == [200] * 3 and server.returncode == 0 and err == ""
        assert out.splitlines()[-1] == "no torch"  # tensors are served without it
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=2)


def _wait_for_inside(port: int, wanted: int) -> None:
    for _ in range(200):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        if f'jdnas_requests_inside{{model="tiny"}} {wanted}.0' in text:
            return
    raise AssertionError(text)


def test_an_address_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="choose another"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("text", "name", "path"), [("a/b.onnx", "b", "a/b.onnx"), ("x=a/b.onnx", "x", "a/b.onnx"), ("a=1/b.onnx", "a", "1/b.onnx")]
)
def test_names_of_artifacts(text: str, name: str, path: str) -> None:
    assert named_artifact(text) == (name, Path(path))


@pytest.mark.parametrize("text", ["..=a.onnx", "=a.onnx", "a b.onnx", "é.onnx", "x y=a.onnx", ".hidden"])
def test_names_that_could_be_taken_for_something_else(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME="):
        named_artifact(text)


def test_artifacts_that_cannot_be_served(engine: Path, tmp_path: Path) -> None:
    quiet = ServeSettings(port=0, images=False)
    with pytest.raises(ConfigError, match="two models"):
        serve([str(engine), str(engine)], quiet, print)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    for path in (broken, tmp_path / "missing.onnx"):
        with pytest.raises(Exception, match="jdnas export|export it again"):
            serve([str(path)], quiet, print)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jdnas.serve.server.find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(MissingExtraError, match=r"jdnas\[serve\]"):
        serve(["a.onnx"], ServeSettings(), print)


def test_connections_send_what_they_have_at_once() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
