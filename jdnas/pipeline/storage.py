"""A run's files for machines that do not see its folder: below a URL that fsspec knows, such as s3://bucket/run."""

import os
import tarfile
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from jdnas.atomic import write_atomically
from jdnas.errors import CheckpointError, ConfigError
from jdnas.training.checkpoint import has_detector

_WEIGHTS, _HEADER = ".safetensors", ".json"
_OPTIONAL = ".optimizer.safetensors"
NAME_FILE = "storage_name"  # in the folder of a run that has one
# These have no folders to be made, and making what is missing would make a bucket of every misspelt name.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl"})
# The header is last: where it is, the rest is.
_DETECTOR = (_OPTIONAL, _WEIGHTS, _HEADER)


@dataclass(frozen=True)
class RunStorage:
    """The files of one run under `url`, by the names that they have in its folder. What is there is only ever replaced by its equal."""

    url: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        try:
            system, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            reason = " ".join(str(error).split())
            extra = "; pip install 'jdnas[s3]'" if isinstance(error, ImportError) and "s3fs" in reason.lower() else ""
            raise ConfigError(f"--storage {self.url!r} cannot be used: {reason}{extra}") from error
        return system, root.rstrip("/")

    def _make_folder(self, path: str) -> None:
        system, _ = self._place
        if _OBJECT_STORES.isdisjoint([system.protocol] if isinstance(system.protocol, str) else system.protocol):
            system.makedirs(path, exist_ok=True)

    def check(self) -> None:
        """Raise a ConfigError unless a file can be written there, read again and removed."""
        system, root = self._place
        path, text = f"{root}/.{uuid.uuid4().hex}", b"jdnas"
        try:
            self._make_folder(root)
            system.pipe_file(path, text)
            same = system.cat_file(path) == text
            system.rm_file(path)
        except Exception as error:  # each file system has errors of its own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"--storage {self.url!r} cannot be written: {reason}; check the address and the rights there") from error
        if not same:
            raise ConfigError(f"--storage {self.url!r} does not give back what was written there")

    def has(self, name: str) -> bool:
        """Tell whether a file is there."""
        system, root = self._place
        system.invalidate_cache()
        return bool(system.exists(f"{root}/{name}"))

    def put(self, folder: Path, name: str) -> None:
        """Copy a file of the run folder there."""
        system, root = self._place
        remote = f"{root}/{name}"
        self._make_folder(remote.rpartition("/")[0])
        system.put_file(str(folder / name), remote)

    def fetch(self, folder: Path, name: str) -> None:
        """Copy a file into the folder, whole or not at all; a CheckpointError says that it is not there."""
        system, root = self._place
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            system.get_file(f"{root}/{name}", temporary)
            os.replace(temporary, path)
        except FileNotFoundError as error:
            raise CheckpointError(f"{name} is not in the run's storage {self.url}") from error
        finally:
            Path(temporary).unlink(missing_ok=True)

    def put_detector(self, folder: Path, stem: Path) -> None:
        """Copy a detector of the run folder there, with its optimizer's state where one was kept."""
        for path in (stem.with_name(stem.name + suffix) for suffix in _DETECTOR):
            if path.exists():
                self.put(folder, path.relative_to(folder).as_posix())

    def fetch_detector(self, folder: Path, stem: Path) -> None:
        """Copy a detector into the folder, unless it is in it."""
        if has_detector(stem):
            return
        for suffix in _DETECTOR:
            name = stem.with_name(stem.name + suffix).relative_to(folder).as_posix()
            if suffix != _OPTIONAL or self.has(name):
                self.fetch(folder, name)

    def put_archive(self, folder: Path, name: str, members: Iterable[tuple[Path, str]]) -> None:
        """Copy files there as one archive, under the given names in it."""
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            path = Path(temporary) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(path, "w") as archive:
                for file, inside in members:
                    archive.add(file, inside)
            self.put(Path(temporary), name)

    def fetch_archive(self, folder: Path, name: str, into: Path) -> None:
        """Unpack an archive as the folder `into`, unless that is there."""
        if into.is_dir():
            return
        into.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into.parent) as temporary:
            self.fetch(Path(temporary), name)
            with tarfile.open(Path(temporary) / name) as archive:
                archive.extractall(Path(temporary) / "unpacked", filter="data")
            os.rename(Path(temporary) / "unpacked", into)


def storage_of_run(url: str, folder: Path) -> RunStorage:
    """Return where a run's files go below `url`: under a name of its own, drawn once, so that runs never take each other's files."""
    name_file = folder / NAME_FILE
    if not name_file.exists():
        write_atomically(name_file, f"{folder.resolve().name}-{uuid.uuid4().hex[:12]}\n".encode())
    return RunStorage(f"{url.rstrip('/')}/{name_file.read_text().strip()}")
