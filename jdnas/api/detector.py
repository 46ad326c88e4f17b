"""A detector in Python: load it, let it detect, evaluate it, export it, time it."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image
from rich.console import Console

from export.runtimes import SUFFIXES as ENGINE_SUFFIXES
from jdnas.data.images import read_image, rgb_pixels
from jdnas.errors import ConfigError, DataError
from jdnas.pipeline.exports import ExportOptions, export_model
from jdnas.pipeline.predict import Detections, detections_in
from jdnas.pipeline.single import OpenModel, evaluate_model, open_model
from jdnas.pipeline.weights import TORCH_SUFFIXES
from jdnas.sizes import SizeHW
from jdnas.spec import DetectorSpec
from jdnas.training.evaluate import Metrics
from latency.bench_report import BenchmarkReport
from latency.benchmark import Sweep, benchmark

ImageLike = str | Path | Image.Image | np.ndarray[Any, np.dtype[np.uint8]]


class Detector:
    """A detector that was opened by `jdnas.load`, from weights or as an engine.

    Use it as a context manager, or call `close`, to release an engine's memory before the program ends.
    """

    def __init__(self, path: Path, model: OpenModel, size: str | None, runtime: str, stack: ExitStack) -> None:
        self.path, self._model, self._size, self._runtime, self._stack = path, model, size, runtime, stack

    @property
    def spec(self) -> DetectorSpec:
        """Its architecture."""
        return self._model.spec

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 1..K."""
        return self._model.classes

    @property
    def size_hw(self) -> SizeHW:
        """Height and width of the canvas that images are fitted into."""
        return self._model.size_hw

    def predict(self, image: ImageLike, *, score: float = 0.3) -> Detections:
        """Detect in one image: a file, a Pillow image, or an RGB array `[H, W, 3]` uint8.

        Boxes are in pixels of the image, best first, those with at least `score`. A DataError says why an image cannot be used.
        """
        return detections_in(self._model, pixels_of(image), score)

    def evaluate(self, data: str | Path, *, split: str = "val", quiet: bool = False, console: Console | None = None) -> Metrics:
        """Return the COCO metrics on the `train` or `val` split of a data set with the same classes."""
        return evaluate_model(self.path, Path(data), split, self._size, self._runtime, console=console or Console(), quiet=quiet)

    def export(
        self, out: str | Path, *, batch: int = 1, precision: str = "fp32", input_form: str = "normalized", data: str | Path | None = None
    ) -> Path:
        """Export to ONNX, checked against PyTorch (a ParityError says that they differ), or to .pth for torchvision; return the file.

        `precision`, `input_form` and `data` are those of `jdnas.export`.
        """
        options = ExportOptions(
            size=self._size, batch=str(batch), precision=precision, input_form=input_form, data=None if data is None else Path(data)
        )
        export_model(self.path, Path(out), options)
        return Path(out)

    def benchmark(self, target: str | Path = "cpu-ort", *, seconds: float = 5.0) -> BenchmarkReport:
        """Time the detector on a target that this machine is; weights run in PyTorch at `size_hw`, engines in the target's runtime.

        A ConfigError refuses checkpoints of other projects, which `jdnas.import_weights` converts first.
        """
        if self.path.suffix in TORCH_SUFFIXES:
            raise ConfigError(f"{self.path} is a checkpoint of another project; convert it first: jdnas.import_weights(file, out)")
        sweep = Sweep() if self.path.suffix in ENGINE_SUFFIXES else Sweep(sizes_hw=(self.size_hw,))
        return benchmark([self.path], target, seconds=seconds, sweep=sweep)

    def close(self) -> None:
        """Release the engine's memory; the detector cannot be used after that."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.size_hw
        return f"<jdnas.Detector {self.path}: {self.spec.family}, {len(self.classes)} classes, {width}x{height}>"


def load(path: str | Path, *, size: str | None = None, runtime: str = "ort-cpu") -> Detector:
    """Open a detector: an .onnx engine, a .safetensors file of jdnas, or a checkpoint of torchvision, detectron2 or mmdetection.

    `size` is the canvas as WIDTHxHEIGHT (default: the one in the file; engines have it inside), `runtime` that of engines, ort-cpu or
    ort-cuda. CheckpointError, ConfigError or TargetError say what does not fit.
    """
    stack = ExitStack()
    model = stack.enter_context(open_model(Path(path), size, runtime))
    return Detector(Path(path), model, size, runtime, stack)


def pixels_of(image: ImageLike) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return an image as an RGB array `[H, W, 3]` uint8; a DataError says what cannot be used."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return rgb_pixels(image)
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise DataError(f"an image array must be [H, W, 3] uint8 in RGB order, got {list(array.shape)} {array.dtype}")
    return array
