"""A server in this process over one small engine, and clients of it."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from export.graph import export_onnx
from export.runners import Runner, open_runner
from jdnas.models.detector import Detector, build
from jdnas.serve.app import create_app
from jdnas.serve.limits import Limits
from jdnas.serve.metrics import Metrics
from jdnas.serve.models import Models
from jdnas.serve.server import listen
from jdnas.spec import DetectorSpec, Head, Stage

CANVAS_HW = (64, 96)
CLASSES = ("circle", "square", "triangle")
BATCH = 2


def small_detector() -> Detector:
    """A detector of random weights, always the same, that detects something in noise."""
    torch.manual_seed(0)
    head = Head(width=16, rpn_width=8, anchor_sizes=(8, 16, 32, 64, 128), candidates=50, proposals=50, detections=20)
    spec = DetectorSpec("resnet_basic", 8, tuple(Stage(width, (width,)) for width in (8, 8, 16, 16)), len(CLASSES), neck=8, head=head)
    detector = build(spec).eval()
    with torch.no_grad():
        layers = ((detector.rpn.objectness, 0.5), (detector.rpn.deltas, 0.1), (detector.box_head.class_logits, 1.0))
        for layer, std in (*layers, (detector.box_head.box_deltas, 0.2)):
            layer.weight.normal_(std=std)
    return detector


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small detector with batch 2."""
    detector = small_detector()
    path = tmp_path_factory.mktemp("engine") / "tiny.onnx"
    return export_onnx(detector.state_dict(), detector.spec, size_hw=CANVAS_HW, batch=BATCH, path=path, classes=CLASSES)


@pytest.fixture(scope="session")
def runner(engine: Path) -> Iterator[Runner]:
    """The bare runner, whose results every reply is compared with."""
    with open_runner(engine, threads=1) as opened:
        yield opened


@dataclass
class Server:
    port: int
    app: FastAPI

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


Serving = Callable[..., Any]


@contextmanager
def running(engine: Path, limits: Limits, **options: Any) -> Iterator[Server]:
    settings = {"runtime": "ort-cpu", "threads": 1, "delay_s": 0.002, "images": True, **options}
    threads = torch.get_num_threads()
    with (
        Models([str(engine), f"second={engine}"], queue=limits.queue, metrics=Metrics(), **settings) as models,
        listen("127.0.0.1", 0) as at,
    ):
        app = create_app(models, limits)
        config = uvicorn.Config(app, http="h11", ws="none", access_log=False, log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Server(at.getsockname()[1], app)
        finally:
            server.should_exit = True
            thread.join()
            torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def server(engine: Path) -> Iterator[Server]:
    """A server with small limits that tests share; they leave it alive."""
    with running(engine, Limits(body_bytes=1 << 20, json_bytes=3 << 18, pixels=1_000_000, timeout_s=10)) as opened:
        yield opened


@pytest.fixture
def serving(engine: Path) -> Serving:
    """Start a server of one's own."""
    return lambda limits, **options: running(engine, limits, **options)


class Hooked:
    """A runner that calls `before(images)` first, which may wait or raise, and keeps how many images it was given each time."""

    def __init__(self, runner: Runner, before: Callable[[NDArray[Any]], object]) -> None:
        self.metadata, self.runtime, self._runner, self._before = runner.metadata, runner.runtime, runner, before
        self.given: list[int] = []

    def run(self, images: NDArray[Any], sizes_hw: NDArray[Any]) -> dict[str, NDArray[Any]]:
        self.given.append(len(images))
        self._before(images)
        return self._runner.run(images, sizes_hw)

    def __enter__(self) -> "Hooked":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def same(found: Any, wanted: Any, row: int = 0) -> bool:
    """Whether outputs by name, of one image each, are the same detections."""
    count = int(wanted["count"][row])
    return int(found["count"][0]) == count and all(
        np.allclose(found[name][0, :count], wanted[name][row, :count], atol=atol)
        for name, atol in (("boxes", 1e-3), ("scores", 1e-5), ("labels", 0))
    )


def noise(seed: int, count: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images and sizes as a client would prepare them."""
    rng = np.random.default_rng(seed)
    sizes = np.stack([rng.integers(20, side + 1, count) for side in CANVAS_HW], axis=1)
    return rng.standard_normal((count, 3, *CANVAS_HW)).astype(np.float32), sizes.astype(np.int64)


def picture(seed: int, size_hw: tuple[int, int] = (80, 60)) -> NDArray[np.uint8]:
    """A photograph of nothing."""
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), np.uint8)


def file_of(image: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    """An image as the bytes of a file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()
