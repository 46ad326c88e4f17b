"""The run folder: where each step leaves its result, which is what makes a run resumable."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from export.settings import ExportSettings
from jdnas.atomic import write_atomically
from jdnas.config import RunConfig, dump, resolve_kept
from jdnas.errors import CheckpointError, ConfigError
from jdnas.search.settings import BUDGETS

_OF_THE_MACHINE = frozenset(
    {"preset", "device", "checkpoint_seconds", "estimate_first", "tensorboard", "data_settings.workers", "data_settings.cache"}
)  # fmt: skip
MAY_CHANGE = _OF_THE_MACHINE | {f"search.{budget}" for budget in BUDGETS} | {f"export.{name}" for name in ExportSettings.model_fields}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run; the layout is that of the documentation (`config.yaml`, `study.db`, `base/`, `pool/`, ...)."""

    root: Path

    @property
    def config_file(self) -> Path:
        """All settings of the run, resolved."""
        return self.root / "config.yaml"

    @property
    def study_url(self) -> str:
        """The Optuna study in its default place."""
        return f"sqlite:///{(self.root / 'study.db').as_posix()}"

    @property
    def base(self) -> Path:
        """Stem of the trained base detector."""
        return self.root / "base" / "base"

    @property
    def pool(self) -> Path:
        """Stem of the teacher pool."""
        return self.root / "pool" / "pool"

    @property
    def control(self) -> Path:
        """Stem of the base that was trained for as many extra images as the student."""
        return self.root / "base" / "control"

    @property
    def student(self) -> Path:
        """Stem of the final student."""
        return self.root / "student" / "student"

    @property
    def has_study(self) -> bool:
        """Whether a search was begun, here or in a database."""
        return self.study_file.is_file() or (self.root / "study.db").is_file()

    @property
    def polished(self) -> Path:
        """Stem of the student after its polish phase."""
        return self.root / "polish" / "student"

    @property
    def study_file(self) -> Path:
        """Where the study is, when it is not in the run folder."""
        return self.root / "study.json"

    @property
    def summary(self) -> Path:
        """Results in figures."""
        return self.root / "summary.json"

    @property
    def report_data(self) -> Path:
        """What the report draws besides the summary."""
        return self.root / "report_data.json"

    def candidate(self, number: int) -> Path:
        """Stem of a candidate's student."""
        return self.root / "candidates" / f"{number:04d}" / "student"


def open_run(root: Path, config: RunConfig, *, resume: bool) -> tuple[RunFolder, RunConfig]:
    """Return the run folder and the settings that hold in it.

    A resumed run may get other budgets, another device and other artifacts (`MAY_CHANGE`), and nothing else.
    Nothing is written, nor is the folder held (`run_lock`). A ConfigError says that it holds a run and `resume` is not set, that it holds
    something else, or which settings differ from those that the run was begun with.
    """
    folder = RunFolder(root)
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root} is a file; choose another --run-dir")
    if not folder.config_file.exists():
        if root.is_dir() and any(root.iterdir()):
            raise ConfigError(f"{root} is not empty and holds no run (no config.yaml); choose another --run-dir")
        return folder, config
    if not resume:
        raise ConfigError(f"{root} holds a run already; continue it with --resume, or choose another --run-dir")
    kept, asked = _flat(kept_settings(folder).model_dump(mode="json")), _flat(config.model_dump(mode="json"))
    changed = [f"{key}={kept.get(key)} (now {asked.get(key)})" for key in kept | asked if kept.get(key) != asked.get(key)]
    changed = [change for change in changed if change.partition("=")[0] not in MAY_CHANGE]
    if changed:
        raise ConfigError(f"{root} was begun with {', '.join(changed)}; resume it with the same settings, or choose another --run-dir")
    return folder, config


@contextmanager
def run_lock(folder: RunFolder) -> Iterator[None]:
    """Hold the run folder, so that no other process works in it; a ConfigError says that one does."""
    try:
        with FileLock(folder.root / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ConfigError(f"another process works in {folder.root}; stop it, wait for it, or choose another --run-dir") from error


def begin_run(folder: RunFolder, config: RunConfig) -> None:
    """Create the folder and write its settings; a search with another budget makes a student found before out of date.

    To be called with the folder held, for what it changes may be another process's.
    """
    if folder.config_file.exists():
        kept = kept_settings(folder)
        if kept == config:
            return
        if kept.search != config.search:
            for stale in (folder.summary, *folder.student.parent.glob(folder.student.name + ".*")):
                stale.unlink(missing_ok=True)
    write_atomically(folder.config_file, dump(config).encode())


def kept_settings(folder: RunFolder) -> RunConfig:
    """Return the settings that a run was begun with, as its config.yaml has them."""
    try:
        return resolve_kept(folder.config_file, {})
    except ConfigError as error:
        raise CheckpointError(f"{error}; restore the file or choose another --run-dir") from error


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
