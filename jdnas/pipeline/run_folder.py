"""The run folder: where each step leaves its result, which is what makes a run resumable."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from jdnas.config import RunConfig, dump, make_config
from jdnas.errors import CheckpointError, ConfigError


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
    """Return the run folder and the settings that hold in it: those given for a new run, those on file for a resumed one.

    Nothing is written. A ConfigError says that the folder is in use, or that other settings were asked for than it was begun with.
    """
    folder = RunFolder(root)
    if not folder.config_file.exists():
        if root.is_dir() and any(root.iterdir()):
            raise ConfigError(f"{root} is not empty and holds no run (no config.yaml); choose another --run-dir")
        return folder, config
    if not resume:
        raise ConfigError(f"{root} holds a run already; continue it with --resume, or choose another --run-dir")
    try:
        stored = yaml.safe_load(folder.config_file.read_text())
    except yaml.YAMLError as error:
        raise CheckpointError(f"{folder.config_file} is not valid YAML; restore it or choose another --run-dir") from error
    kept = make_config(stored, source=str(folder.config_file))
    changed = [key for key in ("base", "target", "data", "seed", "weights") if getattr(kept, key) != getattr(config, key)]
    if changed:
        was = ", ".join(f"{key}={getattr(kept, key)}" for key in changed)
        raise ConfigError(f"{root} was begun with {was}; resume it with the same, or choose another --run-dir")
    return folder, kept


def begin_run(folder: RunFolder, config: RunConfig) -> None:
    """Create the folder and write its settings, unless they are there."""
    if not folder.config_file.exists():
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.config_file.write_text(dump(config))
