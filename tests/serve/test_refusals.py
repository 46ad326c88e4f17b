"""What strangers may send: each is refused, and the server goes on."""

import gzip
import http.client
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from export.runners import Runner, padded_run
from jdnas.serve.limits import Limits
from tests.serve.conftest import Hooked, Server, Serving, file_of, noise, picture

INFER, DETECT = "/v2/models/tiny/infer", "/v2/models/tiny/detect"


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def error(self) -> str:
        return str(json.loads(self.body)["error"])


def call(server: Server, path: str, body: Any = None, method: str = "POST", **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        return Reply(reply.status, reply.read(), {name.lower(): value for name, value in reply.getheaders()})
    finally:
        connection.close()


def raw(server: Server, sent: bytes) -> bytes:
    """Send bytes and return what comes until the server closes or says nothing for a while."""
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(sent)
        while b"\r\n\r\n" not in received:
            part = connection.recv(65536)
            if not part:
                break
            received += part
    return received


@pytest.fixture(autouse=True)
def alive(server: Server, runner: Runner) -> Iterator[None]:
    """After each test, the server still gives the runner's result."""
    yield
    images, sizes = noise(3)
    inputs = [
        {"name": name, "datatype": kind, "shape": list(data.shape), "data": data.round(3).reshape(-1).tolist()}
        for name, kind, data in (("images", "FP32", images), ("sizes_hw", "INT64", sizes))
    ]
    reply = call(server, INFER, json.dumps({"inputs": inputs, "outputs": [{"name": "scores"}]}))
    assert reply.status == 200, reply
    wanted = padded_run(runner, images.round(3), sizes)["scores"]
    np.testing.assert_allclose(json.loads(reply.body)["outputs"][0]["data"], wanted[0], atol=1e-4)
    assert call(server, "/v2/health/ready", method="GET").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/../../../etc/passwd/infer", "/v2/models/..%2f..%2f..%2fetc%2fpasswd/infer", "/v2/models/%2e%2e/infer",
        "/v2/models/tiny%00/infer", "/v2/models/%ff%fe/infer", "/v2/models/tiny.onnx/infer", "/v2/models/" + "a" * 5000 + "/infer",
        "/v2/models/tiny/versions/2/infer", "/v2/models/tiny/versions/..%2f1/infer", "/v2/repository/models/x/load", "/v2/models//infer",
    ],
)  # fmt: skip
def test_names_are_names_and_no_paths(server: Server, path: str) -> None:
    reply = call(server, path, "{}")
    assert reply.status == 404 and reply.error and b"root:" not in reply.body


def test_other_methods_are_not_allowed(server: Server) -> None:
    assert call(server, INFER, method="GET").status == 405
    assert call(server, "/v2/health/live", "{}").status == 405


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"\x00" * 100, b"[" * 50_000, b'{"inputs": [{}]}'])
def test_malformed_bodies(server: Server, body: bytes) -> None:
    assert call(server, INFER, body).status == 400
    assert call(server, DETECT, body).status == 400


@pytest.mark.parametrize(("length", "status"), [("1000000000", 413), ("-5", 400), ("1e3", 400), ("", 400), ("9" * 400, 400), ("12", 400)])
def test_json_lengths_that_lie(server: Server, length: str, status: int) -> None:
    assert call(server, INFER, b"{}", Inference_Header_Content_Length=length).status == status


def test_a_gigabyte_is_refused_before_it_is_sent(server: Server) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**9}\r\n"
    for more in ("", f"Inference-Header-Content-Length: {10**9}\r\n"):
        assert raw(server, f"{head}{more}\r\n".encode()).startswith(b"HTTP/1.1 413")


def test_a_body_without_a_length_is_cut_off(server: Server) -> None:
    chunks = (b" " * 65536 for _ in range(40))  # 2.5 MiB, the limit is 1
    assert call(server, INFER, chunks).status == 413


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 100) for i in range(2000)) + b"\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: nine\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_not_http(server: Server, sent: bytes) -> None:
    assert raw(server, sent).startswith(b"HTTP/1.1 4")


def test_a_client_that_leaves_early(server: Server) -> None:
    for size in (0, 100):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode() + b" " * size)


def test_compressed_bombs_and_other_encodings(server: Server) -> None:
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 100_000
    assert call(server, INFER, bomb, Content_Encoding="gzip").status == 413
    assert call(server, INFER, b"no gzip", Content_Encoding="gzip").status == 400
    assert call(server, INFER, gzip.compress(b"{}" * 999)[:-9], Content_Encoding="gzip").status == 400
    assert call(server, INFER, b"{}", Content_Encoding="br").status == 415


def _png_bomb(width: int, height: int) -> bytes:
    """A valid PNG of one colour, some kilobytes that become `width` x `height` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(2000, 2000), (12_000, 12_000), (30_000, 30_000)])
def test_decompression_bombs(server: Server, size: tuple[int, int]) -> None:
    bomb = _png_bomb(*size)
    assert len(bomb) < 1 << 18
    reply = call(server, DETECT, bomb)
    assert reply.status == 400 and "1000000" in reply.error


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_only_jpeg_and_png_are_decoded(server: Server, kind: str) -> None:
    reply = call(server, DETECT, file_of(picture(1, (64, 64)), kind))
    assert reply.status == 400 and "JPEG or PNG" in reply.error


def test_damaged_images(server: Server) -> None:
    whole = file_of(picture(1))
    for damaged in (whole[: len(whole) // 2], whole[:40], whole[:200] + b"\xff" * 100 + whole[300:]):
        assert call(server, DETECT, damaged).status == 400


@pytest.mark.parametrize("score", ["2", "-1", "nan", "much", ""])
def test_scores_outside_their_range(server: Server, score: str) -> None:
    assert call(server, f"{DETECT}?score={score}", file_of(picture(1))).status == 400


def test_detections_of_an_image_and_their_lowest_score(server: Server) -> None:
    data = file_of(picture(1, (80, 60)))
    everything, some = (json.loads(call(server, f"{DETECT}?score={score}", data).body) for score in ("0", "0.5"))
    assert everything["image"] == {"width": 60, "height": 80} and everything["model_name"] == "tiny"
    scores = [one["score"] for one in everything["detections"]]
    assert scores == sorted(scores, reverse=True) and scores
    assert some["detections"] == [one for one in everything["detections"] if one["score"] >= 0.5]
    for one in everything["detections"]:
        x0, y0, x1, y1 = one["box_xyxy"]
        assert 0 <= x0 < x1 <= 60 and 0 <= y0 < y1 <= 80 and one["class"] == ("circle", "square", "triangle")[one["label"] - 1]


def test_metrics_count_requests_and_name_no_unknown_model(server: Server) -> None:
    def counted() -> float:
        lines = call(server, "/metrics", method="GET").body.decode().splitlines()
        assert not any("nobody" in line for line in lines)
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith('jdnas_requests_total{code="400",kind="detect",model="second"')
        )

    before = counted()
    call(server, "/v2/models/nobody/detect", b"")
    call(server, "/v2/models/second/detect", b"")
    assert counted() == before + 1
    text = call(server, "/metrics", method="GET").body.decode()
    assert 'jdnas_requests_inside{model="tiny"} 0.0' in text and "jdnas_batch_images_bucket" in text


def test_time_limits_of_body_and_result(serving: Serving, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    free.set()
    monkeypatch.setattr("jdnas.serve.models.open_runner", lambda *_, **__: Hooked(runner, lambda _: free.wait(20)))
    with serving(Limits(timeout_s=0.4)) as server:
        slow = raw(server, f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode())
        assert slow.startswith(b"HTTP/1.1 408") and b"connection: close" in slow.lower()
        free.clear()
        assert call(server, DETECT, file_of(picture(1))).status == 504
        free.set()
        assert call(server, DETECT, file_of(picture(1))).status == 200


def test_overload_says_when_to_try_again(serving: Serving) -> None:
    with serving(Limits(queue=1, timeout_s=5)) as server, socket.create_connection(("127.0.0.1", server.port)) as waiting:
        waiting.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode())
        while (reply := call(server, DETECT, b"")).status == 400:
            pass  # the first request has not been seen yet
        assert reply.status == 503 and reply.headers["retry-after"] == "1"
        assert call(server, "/v2/health/live", method="GET").status == 200
        assert call(server, "/v2/models/second/detect", b"").status == 400  # each model has its own queue


def test_clients_that_leave_give_back_their_places(serving: Serving, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    free, body = threading.Event(), file_of(picture(1))
    free.set()
    hooked = Hooked(runner, lambda _: free.wait(20))
    monkeypatch.setattr("jdnas.serve.models.open_runner", lambda *_, **__: hooked)
    with serving(Limits(queue=3, timeout_s=20)) as server:

        def wait_for(line: str) -> None:
            while line not in call(server, "/metrics", method="GET").body.decode():
                time.sleep(0.01)

        free.clear()
        given = len(hooked.given)
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        for number, client in enumerate(clients, start=1):
            client.sendall(f"POST {DETECT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_for(f'jdnas_requests_inside{{model="tiny"}} {number:.1f}')
        assert call(server, DETECT, body).status == 503
        while len(hooked.given) == given:
            time.sleep(0.01)
        for client in clients:
            client.close()
        wait_for('jdnas_requests_inside{model="tiny"} 0.0')
        assert 'jdnas_requests_total{code="499",kind="detect",model="tiny"} 3.0' in call(server, "/metrics", method="GET").body.decode()
        free.set()
        assert call(server, DETECT, body).status == 200
        assert len(hooked.given) == given + 2, "what nobody waits for is not run, but for what was begun"


def test_a_fault_of_the_engine_is_a_500_without_details(
    serving: Serving, runner: Runner, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    faulty = threading.Event()

    def before(_: Any) -> None:
        if faulty.is_set():
            raise RuntimeError("secret/path")

    monkeypatch.setattr("jdnas.serve.models.open_runner", lambda *_, **__: Hooked(runner, before))
    with serving(Limits()) as server:
        faulty.set()
        reply = call(server, DETECT, file_of(picture(1)))
        assert reply.status == 500 and b"secret" not in reply.body
        faulty.clear()
        assert call(server, DETECT, file_of(picture(1))).status == 200
