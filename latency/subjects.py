"""What a benchmark times: engines of the target's runtime, and detectors in PyTorch on the target's device."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from export import feeding
from export.cuda_device import CudaDevice
from export.runners import open_runner
from export.session import Array, BoundCall, RuntimeInfo, physical_cores
from jdnas.errors import CheckpointError, ConfigError, TargetError
from jdnas.spec import DetectorSpec
from latency.blocks import SizeHW
from latency.exports import export_for, export_path
from latency.machine import CPU_PROVIDERS
from latency.targets import Target

if TYPE_CHECKING:  # timing an engine takes no PyTorch
    from jdnas.models.weights import State

TORCH = "torch"


@dataclass(frozen=True, slots=True)
class Subject:
    """Ready to be timed: `call` infers one batch in place, `infer` takes images and sizes and copies them in and out.

    `prepare` makes both, for one image, of RGB `[h, w, 3]` uint8. `runs_in` is the runtime, `build_s` what it took to build the engine or
    model from its file.
    """

    path: Path
    runs_in: str
    precision: str
    spec: DetectorSpec
    size_hw: SizeHW
    batch: int
    build_s: float
    info: RuntimeInfo
    call: BoundCall
    infer: Callable[[Array, Array], object]
    prepare: Callable[[Array], tuple[Array, Array]]
    close: Callable[[], None]

    @property
    def name(self) -> str:
        """File, runtime, precision, canvas and batch."""
        return f"{self.path} ({self.runs_in}, {self.precision}, {self.size_hw[1]}x{self.size_hw[0]}, batch {self.batch})"


def open_engine(path: Path, target: Target) -> Subject:
    """Load an artifact on the target's runtime, whatever its precision; a TargetError for one compiled for another device."""
    start = perf_counter()
    runner = open_runner(path, target.runtime, threads=target.threads)
    build_s, info = perf_counter() - start, runner.metadata
    runs_on = "cpu" if runner.runtime.provider in CPU_PROVIDERS else "gpu"
    if runs_on != target.processor:
        runner.close()
        raise TargetError(
            f"artifact {path} was compiled for the {runs_on}; target {target.name!r} is {target.device}; export it for that target"
        )
    call = runner.bind(*feeding.noise(info))

    def prepare(image: Array) -> tuple[Array, Array]:
        ready = feeding.prepare(info, image)
        return ready.images, ready.sizes_hw

    return Subject(
        path, target.runtime, info.precision, info.spec, info.size_hw, info.batch, build_s, runner.runtime, call, runner.run, prepare,
        runner.close,
    )  # fmt: skip


def open_model(path: Path, target: Target, size_hw: SizeHW | None, batch: int) -> Subject:
    """Build a .safetensors detector in PyTorch on the target's device; a ConfigError where nothing says its input size."""
    import torch

    from jdnas.data.canvas import place_on_canvas
    from jdnas.models.bound import materialize

    start = perf_counter()
    spec, state, size_hw = read_model(path, size_hw)
    device = "cpu" if target.processor == "cpu" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise TargetError(f"target {target.name!r} is {target.device}, and PyTorch finds no CUDA device here")
    threads, before = target.threads or physical_cores(), torch.get_num_threads()
    torch.set_num_threads(threads)
    detector = materialize(spec, state, device)
    build_s = perf_counter() - start

    def infer(images: Array, sizes_hw: Array) -> object:
        with torch.inference_mode():
            found = detector(torch.from_numpy(images).to(device), torch.from_numpy(sizes_hw).to(device))
            return [part.cpu() for part in found]

    images, sizes = (torch.from_numpy(array).to(device) for array in noise(size_hw, batch))

    def launch() -> None:
        with torch.inference_mode():
            detector(images, sizes)

    call = CudaDevice().bound(launch) if device == "cuda" else BoundCall(launch)

    def prepare(image: Array) -> tuple[Array, Array]:
        placed = place_on_canvas(image, size_hw, spec.traits.mean, spec.traits.std)
        return placed.pixels[None], np.array([placed.size_hw], np.int64)

    info = RuntimeInfo(TORCH, torch.__version__, threads, device)
    return Subject(path, TORCH, "fp32", spec, size_hw, batch, build_s, info, call, infer, prepare, lambda: torch.set_num_threads(before))


def read_model(path: Path, size_hw: SizeHW | None) -> "tuple[DetectorSpec, State, SizeHW]":
    """Read a detector's weights and the canvas to run it at: the one asked for, else the one in the file."""
    from jdnas.training.checkpoint import load_detector

    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is neither an engine nor a .safetensors detector")
    spec, state, meta = load_detector(path.with_suffix(""))
    if size_hw is None and "size_hw" not in meta:
        raise ConfigError(f"{path} does not say its input size; give it with --size WIDTHxHEIGHT")
    height, width = size_hw or meta["size_hw"]
    return spec, state, (int(height), int(width))


def export_model(path: Path, size_hw: SizeHW | None, batch: int, folder: Path, target: Target) -> Path:
    """Export a .safetensors detector for a target into `folder`, unless that was done before; return the file."""
    spec, state, size_hw = read_model(path, size_hw)
    made = export_path(f"{path.stem}_{size_hw[1]}x{size_hw[0]}_b{batch}_{spec.key}", folder, target)
    if not made.is_file():
        classes = [str(label) for label in range(1, spec.num_classes + 1)]
        export_for(target, spec, state, size_hw=size_hw, batch=batch, path=made, classes=classes)
    return made


def noise(size_hw: SizeHW, batch: int) -> tuple[Array, Any]:
    """Return a batch of noise that fills the canvas, and its sizes."""
    images = np.random.default_rng(0).standard_normal((batch, 3, *size_hw)).astype(np.float32)
    return images, np.array([size_hw] * batch, np.int64)
