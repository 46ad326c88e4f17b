"""What a worker on another machine needs to work on a run's candidates, and how it finds it."""

import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock

import jdnas
from jdnas.config import RunConfig
from jdnas.data.description import load_description, save_description
from jdnas.data.images import keep_images
from jdnas.data.records import DetectionSet
from jdnas.errors import CheckpointError, ConfigError, DataError
from jdnas.pipeline.context import Context, SizeHW, pick_device
from jdnas.pipeline.run_folder import RunFolder
from jdnas.pipeline.storage import RunStorage
from jdnas.pipeline.workshop import StudentWorkshop
from jdnas.search.attempt import Bench
from jdnas.search.executors.on_ray import Share
from jdnas.search.workshop import Cost
from jdnas.spec import DetectorSpec
from jdnas.student.actions import ActionRules
from jdnas.teacher.pool import load_pool

SCRATCH = "JDNAS_SCRATCH"
_IMAGES = "data/images.tar"


@dataclass(frozen=True)
class WorkshopSite:
    """A run as its workers see it: in the folder `root`, which every machine sees, or through `storage`.

    `rules` and `cost` come from the driver, so that workers need neither its target file nor its latency tables.
    """

    config: RunConfig
    base_spec: DetectorSpec
    sizes_hw: tuple[SizeHW, ...]
    rules: ActionRules
    cost: Cost
    share: Share
    root: Path
    pool_version: str
    storage: RunStorage | None = None
    version: str = jdnas.__version__

    def open(self) -> Bench:
        """Read data description, base and pool; an InputError names the machine and what it lacks."""
        if self.version != jdnas.__version__:
            raise ConfigError(f"{_here()} has jdnas {jdnas.__version__}, the driver {self.version}; install the same on all machines")
        torch.set_num_threads(max(1, round(self.share.cpus)))
        device = self._device()
        root = self._run_folder() if self.storage is None else self._scratch(self.storage)
        train, val = (load_description(root / f"data/{split}.safetensors", root / "data" / "images") for split in ("train", "val"))
        for data in (train, val):
            _check_images(data)
            keep_images(data, self.config.data_settings.cache, _scratch_root() / "jdnas-cache")
        context = Context(self.config, RunFolder(root), train, val, self.sizes_hw, self.base_spec, device)
        pool = load_pool(context.folder.pool, train.classes)
        return Bench(StudentWorkshop(context, pool, self.rules, storage=self.storage), self.cost)

    def _device(self) -> torch.device:
        if not self.share.gpus:
            return torch.device("cpu")
        try:
            return pick_device("cuda")
        except ConfigError as error:
            raise ConfigError(f"{_here()} was given a GPU by Ray, and its PyTorch finds none; install PyTorch with CUDA there") from error

    def _run_folder(self) -> Path:
        if not RunFolder(self.root).config_file.is_file():
            raise CheckpointError(
                f"{_here()} does not see the run folder {self.root}; mount it there at the same path, or give --storage URL"
            )
        return self.root

    def _scratch(self, storage: RunStorage) -> Path:
        """Return this machine's copy of the run, with all that every candidate needs in it."""
        root = _scratch_root() / f"jdnas-{storage.url.rpartition('/')[2]}-{self.pool_version}"
        folder = RunFolder(root)
        with FileLock(root.with_name(root.name + ".lock")):
            for stem in (folder.base, folder.pool):
                storage.fetch_detector(root, stem)
            for split in ("train", "val"):
                if not (root / f"data/{split}.safetensors").exists():
                    storage.fetch(root, f"data/{split}.safetensors")
            storage.fetch_archive(root, _IMAGES, root / "data" / "images")
        return root


def prepare_files(context: Context, storage: RunStorage | None) -> None:
    """Leave in the run folder, or in its storage, what `WorkshopSite.open` reads; images that are there are not sent again."""
    root = context.folder.root
    for data in (context.train, context.val):
        paths = [str(record.path.absolute()) for record in data.records] if storage is None else [name for _, name in _members(data)]
        save_description(root / f"data/{data.split}.safetensors", data, paths)
    if storage is None:
        return
    for data in (context.train, context.val):
        storage.put(root, f"data/{data.split}.safetensors")
    for stem in (context.folder.base, context.folder.pool):
        storage.put_detector(root, stem)
    if not storage.has(_IMAGES):
        storage.put_archive(root, _IMAGES, (member for data in (context.train, context.val) for member in _members(data)))


def _members(data: DetectionSet) -> list[tuple[Path, str]]:
    return [(record.path, f"{data.split}/{index:07d}{record.path.suffix}") for index, record in enumerate(data.records)]


def _check_images(data: DetectionSet) -> None:
    first = data.records[0].path
    if not first.is_file():
        raise DataError(f"{_here()} does not see the image {first}; mount the data set there at the same path, or give --storage URL")


def _here() -> str:
    return f"machine {platform.node()!r}"


def _scratch_root() -> Path:
    return Path(os.environ.get(SCRATCH) or tempfile.gettempdir())
