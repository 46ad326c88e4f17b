"""`jdnas serve` under load: 16 parallel tritonclient clients, each reply compared with the bare runner's.

    python benchmarks/serve_load.py --seconds 60

Three servers, each a process of its own with one thread within operators. `load`: all clients for `--seconds`; errors, replies that are
not the runner's, images a second, and the server's memory in the first and second half. `overload`: a queue of 4 for 16 clients;
every reply is either right or a 503. `overhead`: one client and the bare runner take turns on an engine of batch 1. The engines
are a base of a quarter of its widths with random weights: neither time nor memory depends on what they were trained for.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import fastapi
import numpy as np
import onnxruntime
import psutil
import torch
import tritonclient.http as triton
import uvicorn
from provenance import ROOT, publish
from tritonclient.utils import InferenceServerException

from export.graph import export_onnx
from export.runners import Runner, open_runner, padded_run
from jdnas.models.detector import build
from jdnas.presets import preset, scale_backbone
from jdnas.sizes import SizeHW, size_hw_from_text
from jdnas.spec import DetectorSpec

NAMES = ("boxes", "scores", "labels", "count")
CLASSES = ("circle", "square", "triangle")
INPUTS = 32


@dataclass
class Tally:
    """What the clients saw. `outcomes`: right, wrong, 503, or another error's text. `ms`: of the right replies."""

    outcomes: Counter[str] = field(default_factory=Counter)
    ms: list[float] = field(default_factory=list)


def small_spec(base: str, width: float) -> DetectorSpec:
    """Return a base with all its widths, neck and heads too, multiplied by `width`, and with a hundred proposals."""
    spec = scale_backbone(preset(base, len(CLASSES)), width)
    head = replace(
        spec.head, width=round(spec.head.width * width), rpn_width=round(spec.head.rpn_width * width), candidates=200, proposals=100
    )
    return replace(spec, neck=round(preset(base, len(CLASSES)).neck * width), head=head)


def make_engine(spec: DetectorSpec, size_hw: SizeHW, batch: int, path: Path) -> Path:
    """Export a detector with random weights that detect something in noise."""
    torch.manual_seed(0)
    detector = build(spec).eval()
    with torch.no_grad():
        detector.rpn.objectness.weight.normal_(std=0.1)
        detector.box_head.class_logits.weight.normal_(std=0.1)
    return export_onnx(detector.state_dict(), spec, size_hw=size_hw, batch=batch, path=path, classes=CLASSES)


@contextmanager
def server(engine: Path, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run `jdnas serve` and give its address and process."""
    command = [sys.executable, "-c", "from jdnas.cli import main; main()", "serve", f"model={engine}", "--port", "0", "--threads", "1"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            while not (found := re.match(r"ready: http://(\S+?)/", line := process.stdout.readline())):
                if not line:
                    raise SystemExit("the server did not start")
            yield found[1], psutil.Process(process.pid)
        finally:
            process.terminate()
    if process.returncode:
        raise SystemExit(f"the server ended with {process.returncode}")


def make_inputs(runner: Runner) -> list[tuple[Any, Any, Any]]:
    """Images, their sizes, and what the runner finds in them."""
    height, width = runner.metadata.size_hw
    inputs = []
    for seed in range(INPUTS):
        rng = np.random.default_rng(seed)
        images = rng.standard_normal((1, 3, height, width)).astype(np.float32)
        sizes = np.array([[rng.integers(height // 2, height + 1), rng.integers(width // 2, width + 1)]], np.int64)
        inputs.append((images, sizes, padded_run(runner, images, sizes)))
    for at, one in enumerate(inputs):
        if int(one[2]["count"][0]) == 0 or any(same(one[2], other[2]) for other in inputs[:at]):
            raise SystemExit("the engine's detections do not tell the inputs apart")
    return inputs


def same(found: Any, wanted: Any) -> bool:
    """Whether two results are the same detections."""
    count = int(wanted["count"][0])
    return int(found["count"][0]) == count and all(
        np.allclose(found[name][0, :count], wanted[name][0, :count], atol=atol)
        for name, atol in (("boxes", 1e-2), ("scores", 1e-4), ("labels", 0))
    )


def packed(images: Any, sizes_hw: Any) -> list[Any]:
    """Return a request's binary tensors, as tritonclient sends them."""
    inputs = [triton.InferInput("images", images.shape, "FP32"), triton.InferInput("sizes_hw", sizes_hw.shape, "INT64")]
    inputs[0].set_data_from_numpy(images)
    inputs[1].set_data_from_numpy(sizes_hw)
    return inputs


def ask(client: Any, inputs: list[Any]) -> dict[str, Any]:
    """One request."""
    result = client.infer("model", inputs)
    return {name: result.as_numpy(name) for name in NAMES}


def storm(address: str, inputs: list[tuple[Any, Any, Any]], clients: int, seconds: float, watch: Callable[[], object]) -> Tally:
    """Let all clients ask without a pause; `watch` is called twice a second."""
    tally, end = Tally(), time.monotonic() + seconds

    def client_loop(number: int) -> None:
        with triton.InferenceServerClient(address, connection_timeout=60, network_timeout=60) as client:
            at = number * 7
            while time.monotonic() < end:
                images, sizes, wanted = inputs[at % len(inputs)]
                at += 1
                started = time.perf_counter()
                try:
                    outcome = "right" if same(ask(client, packed(images, sizes)), wanted) else "wrong"
                except InferenceServerException as error:
                    outcome = "503" if error.status() == "503" else f"{error.status()}: {error.message()}"
                except Exception as error:  # a lost connection is what this looks for
                    outcome = repr(error)
                tally.outcomes[outcome] += 1
                if outcome == "right":
                    tally.ms.append(1e3 * (time.perf_counter() - started))
                elif outcome == "503":
                    time.sleep(0.05)  # Retry-After says a second; this is a ruder client

    threads = [threading.Thread(target=client_loop, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        watch()
        time.sleep(0.5)
    return tally


def machine() -> dict[str, Any]:
    """Say what else keeps the machine busy: load averages, and the share of the CPU in use while this process waits."""
    return {"load_average": [round(value, 2) for value in psutil.getloadavg()], "cpu_percent_of_others": psutil.cpu_percent(interval=2.0)}


def described(tally: Tally, seconds: float) -> dict[str, Any]:
    """Return a tally as plain data."""
    return {
        "seconds": seconds, "outcomes": dict(tally.outcomes), "right_per_s": round(tally.outcomes["right"] / seconds, 1),
        "p50_ms": round(float(np.percentile(tally.ms, 50)), 2), "p99_ms": round(float(np.percentile(tally.ms, 99)), 2),
    }  # fmt: skip


def measure_load(engine: Path, inputs: list[tuple[Any, Any, Any]], clients: int, seconds: float) -> dict[str, Any]:
    """Run the load and watch the server's memory."""
    memory: list[float] = []
    with server(engine) as (address, process):
        storm(address, inputs, clients, seconds / 10, lambda: None)  # buffers reach their size
        tally = storm(address, inputs, clients, seconds, lambda: memory.append(process.memory_info().rss / 2**20))
    half = len(memory) // 2
    parts = {"first_half_mib": median(memory[:half]), "second_half_mib": median(memory[half:]), "peak_mib": max(memory)}
    held = {name: round(value, 1) for name, value in parts.items()}
    return {"clients": clients, **described(tally, seconds), "memory": held}


def measure_overload(engine: Path, inputs: list[tuple[Any, Any, Any]], clients: int, seconds: float) -> dict[str, Any]:
    """Run more clients than the queue has places."""
    with server(engine, "--queue", "4") as (address, _):
        tally = storm(address, inputs, clients, seconds, lambda: None)
    return {"clients": clients, "queue": 4, **described(tally, seconds)}


def measure_overhead(engine: Path, calls: int) -> dict[str, Any]:
    """Let one client and the bare runner take turns, in alternating order; the client's time has its own work in it."""
    http_ms, runner_ms = [], []
    with open_runner(engine, threads=1) as runner, server(engine, "--no-images") as (address, _):
        inputs = make_inputs(runner)
        with triton.InferenceServerClient(address) as client:
            for at in range(calls + 20):
                images, sizes, _ = inputs[at % len(inputs)]
                request = packed(images, sizes)
                turns: list[tuple[list[float], Callable[[], object]]] = [
                    (runner_ms, partial(runner.run, images, sizes)), (http_ms, partial(ask, client, request))
                ]  # fmt: skip
                for taken, call in turns[:: 1 if at % 2 else -1]:
                    started = time.perf_counter()
                    call()
                    if at >= 20:
                        taken.append(1e3 * (time.perf_counter() - started))
    differences = np.array(http_ms) - np.array(runner_ms)
    return {
        "calls": calls, "runner_p50_ms": round(median(runner_ms), 3), "http_p50_ms": round(median(http_ms), 3),
        "overhead_p50_ms": round(median(http_ms) - median(runner_ms), 3), "paired_overhead_p50_ms": round(float(np.median(differences)), 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="r18")
    parser.add_argument("--width", type=float, default=0.25, help="factor of all widths")
    parser.add_argument("--size", default="128x128", help="WIDTHxHEIGHT")
    parser.add_argument("--batch", type=int, default=4, help="batch of the engine under load")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--calls", type=int, default=200, help="of the overhead")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "serve_load.json")
    options = parser.parse_args()
    size_hw, spec, before = size_hw_from_text(options.size), small_spec(options.base, options.width), machine()
    with tempfile.TemporaryDirectory() as folder:
        single, batched = (make_engine(spec, size_hw, batch, Path(folder) / f"b{batch}.onnx") for batch in (1, options.batch))
        with open_runner(batched, threads=1) as runner:
            inputs = make_inputs(runner)
        results = {
            "overhead": measure_overhead(single, options.calls),
            "load": measure_load(batched, inputs, options.clients, options.seconds),
            "overload": measure_overload(batched, inputs, options.clients, options.seconds / 6),
        }
    versions = {"onnxruntime": onnxruntime.__version__, "fastapi": fastapi.__version__, "uvicorn": uvicorn.__version__}
    engine = {"base": options.base, "width": options.width, "size": options.size, "load_batch": options.batch, "weights": "random, seed 0"}
    record = {"engine": engine, "machine": {"before": before, "after": machine()}, **results}
    publish(options.output, record, **versions)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
