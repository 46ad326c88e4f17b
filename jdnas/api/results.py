"""What the functions of `jdnas.api` return of a run."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from jdnas.api.detector import Detector, load
from jdnas.errors import CheckpointError
from jdnas.pipeline.run_folder import RunFolder
from jdnas.pipeline.status import run_status
from jdnas.training.checkpoint import read_json

_FRAME_HEIGHT = 900


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder. In a notebook it shows the run's report, where there is one."""

    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        """The results in figures, `summary.json`; a CheckpointError says that the run is not finished."""
        if not self.report.with_name("summary.json").is_file():
            raise CheckpointError(
                f"no summary.json in {self.folder}; finish that run first: jdnas optimize --run-dir {self.folder} --resume"
            )
        return read_json(self.folder / "summary.json")

    @property
    def report(self) -> Path:
        """Where the report of a finished run is."""
        return self.folder / "report.html"

    @property
    def student(self) -> Detector:
        """The chosen detector, opened from its weights."""
        return load(RunFolder(self.folder).student.with_suffix(".safetensors"))

    @property
    def engine(self) -> Detector:
        """The chosen detector as it was exported."""
        return load(self.folder / self.summary["student"]["artifact"])

    def status(self, top: int = 5, study_url: str | None = None) -> dict[str, Any]:
        """Return how far the run is: metrics of base, control and largest teacher, and the `top` best pairs of the search.

        `study_url` is that of the run with the password in it, where the database asks for one.
        """
        return run_status(self.folder, top, study_url)

    def _repr_html_(self) -> str:
        if not self.report.is_file():
            return f"<p>jdnas run in <code>{escape(str(self.folder))}</code>; its report is written at the end.</p>"
        page = escape(self.report.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:{_FRAME_HEIGHT}px;border:0" title="jdnas report"></iframe>'


@dataclass(frozen=True, slots=True)
class Trained:
    """A detector that was pruned or distilled: where its weights are, and the record of how it came about."""

    path: Path
    record: dict[str, Any]

    def load(self) -> Detector:
        """Open the detector."""
        return load(self.path)
