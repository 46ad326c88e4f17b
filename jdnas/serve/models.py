"""The models of a server: named runners with their queue, answering tensors and image files."""

import asyncio
import re
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.feeding import Prepared, noise, prepare
from export.runners import Runner, open_runner
from export.session import Array
from jdnas.errors import ConfigError, DataError, InputError
from jdnas.serve.batching import Batcher, Outputs
from jdnas.serve.contract import VERSION, Contract
from jdnas.serve.limits import MIB, Gate, Limits, Refusal
from jdnas.serve.metrics import Metrics
from jdnas.serve.protocol import Body

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"


def named_artifact(text: str) -> tuple[str, Path]:
    """Read NAME=PATH, or PATH, whose name is the file's without its suffix."""
    name, equals, path = text.partition("=")
    if not equals or "/" in name:
        name, path = Path(text).stem, text
    if not re.fullmatch(_NAME, name):
        raise ConfigError(f"{name!r} cannot be the name of a model (letters, digits and ._- are allowed); name it with NAME={path}")
    return name, Path(path)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model. `images` says whether it takes image files, which needs PyTorch for scaling them."""

    name: str
    runner: Runner
    contract: Contract
    batcher: Batcher
    gate: Gate
    images: bool

    async def infer(self, images: Array, sizes_hw: Array | None) -> Outputs:
        """Run images that were prepared by the client; boxes are in pixels of the canvas, or of the image where that is the input form."""
        if sizes_hw is None:
            sizes_hw = np.array([images.shape[1:3]] * len(images), np.int64)
        return await self._result(images, sizes_hw)

    async def detect(self, files: Iterable[Body], *, max_pixels: int, pool: Any) -> tuple[Outputs, list[tuple[int, int]]]:
        """Run the images of JPEG or PNG files; boxes are in their pixels. Also returns the images' sizes (height, width)."""
        if not self.images:
            raise Refusal(400, "this server takes tensors only; start it without --no-images")
        loop = asyncio.get_running_loop()
        placed = await asyncio.gather(*(loop.run_in_executor(pool, self._prepared, data, max_pixels) for data in files))
        images, sizes = (np.concatenate(parts) for parts in zip(*((one.images, one.sizes_hw) for one, _ in placed), strict=True))
        found = await self._result(images, sizes)
        boxes = [one.boxes_in_image(row) for row, (one, _) in zip(found["boxes"], placed, strict=True)]
        return {**found, "boxes": np.stack(boxes).astype(np.float32)}, [size for _, size in placed]

    def _prepared(self, data: Body, max_pixels: int) -> tuple[Prepared, tuple[int, int]]:
        from jdnas.data.images import decode_image

        try:
            image = decode_image(bytes(data), max_pixels=max_pixels)
            return prepare(self.contract.info, image), (image.shape[0], image.shape[1])
        except DataError as error:
            raise Refusal(400, str(error)) from error

    async def _result(self, images: Array, sizes_hw: Array) -> Outputs:
        try:
            return await asyncio.wrap_future(self.batcher.submit(images, sizes_hw))
        except InputError as error:
            raise Refusal(400, str(error)) from error


class Models:
    """All models of a server by name; closed by leaving `with`, which first runs what is queued."""

    def __init__(
        self, artifacts: Iterable[str], *, runtime: str, threads: int | None, delay_s: float, queue: int, images: bool, metrics: Metrics
    ) -> None:  # fmt: skip
        self.metrics = metrics
        self.by_name: dict[str, ServedModel] = {}
        self._stack = ExitStack()
        try:
            for text in artifacts:
                name, path = named_artifact(text)
                if name in self.by_name:
                    raise ConfigError(f"two models are called {name!r}; name one with NAME={path}")
                runner = self._stack.enter_context(open_runner(path, runtime, threads=threads))
                self.by_name[name] = self._started(name, runner, delay_s, queue, images)
        except BaseException:
            self._stack.close()
            raise
        if images:
            _load_scaling()

    def _started(self, name: str, runner: Runner, delay_s: float, queue: int, images: bool) -> ServedModel:
        contract = Contract(runner.metadata)
        runner.run(*noise(runner.metadata))  # the first call is slow
        gate = Gate(queue, self.metrics.inside(name))
        batcher = Batcher(runner, delay_s=delay_s, inside=lambda: gate.inside, report=self.metrics.batch(name))
        self._stack.callback(batcher.close)
        return ServedModel(name, runner, contract, batcher, gate, images)

    def __enter__(self) -> "Models":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def ready(self) -> bool:
        """Whether every model answers."""
        return all(model.batcher.alive for model in self.by_name.values())

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """Return a model; a Refusal with 404 for a name or version that is not served. Names are never taken as paths."""
        model = self.by_name.get(name)
        if model is None or version not in (None, VERSION):
            raise Refusal(404, f"there is no such model or version; served: {', '.join(sorted(self.by_name))}, version {VERSION}")
        return model

    def body_bytes(self) -> int:
        """Return a body limit that every request within the contracts keeps: the largest full batch as binary data, or 32 MiB."""
        infos = [model.contract.info for model in self.by_name.values()]
        largest = max((info.batch * 3 * info.size_hw[0] * info.size_hw[1] * 4 for info in infos), default=0)
        return max(Limits().body_bytes, largest + MIB)


def _load_scaling() -> None:
    """Import what scales images now rather than in the first request."""
    import jdnas.data.canvas  # noqa: F401


def one_thread() -> None:
    """Let what scales images in this thread use no other, where it is at hand."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
