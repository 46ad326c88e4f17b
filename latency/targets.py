"""Targets: a device, a runtime, a precision and a batch, as YAML."""

import os
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from export.runtimes import RUNTIMES, Processor
from jdnas.errors import TargetError, unknown_name

DATA = Path(__file__).resolve().parent / "data"
_SUFFIXES = (".yaml", ".yml")


class Clocks(BaseModel):
    """Clocks that a measurement holds the device at, in MHz; setting them takes an administrator's rights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    graphics_mhz: int = Field(ge=1)


class Target(BaseModel):
    """Where a detector shall run.

    `device` is words of the name that the driver gives the GPU, or "cpu". `sizes` are usual inputs as WIDTHxHEIGHT, which a table is
    measured at where nothing else is asked for. `threads` limits the CPU threads within an operator; None uses all physical cores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    device: str = Field(min_length=1)
    runtime: Literal["ort-cpu", "ort-cuda", "openvino", "aoti", "tensorrt", "tensorrt-rtx"]
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    batch: int = Field(default=1, ge=1)
    sizes: tuple[Annotated[str, Field(pattern=r"^[1-9][0-9]*x[1-9][0-9]*$")], ...] = ()
    clocks: Clocks | None = None
    threads: int | None = Field(default=None, ge=1)
    notes: str = ""
    _folder: Path | None = PrivateAttr(default=None)

    @property
    def processor(self) -> Processor:
        """What engines of the target run on: "cpu" or "gpu"."""
        return RUNTIMES[self.runtime].processor or ("cpu" if self.device == "cpu" else "gpu")

    @property
    def width_step(self) -> int:
        """What channel counts should be multiples of: 8 for the tiles of fp16 kernels and of vector units, 32 for those of int8."""
        return 32 if self.precision == "int8" else 8

    @property
    def table_path(self) -> Path:
        """Where measurements of this target go: beside a user's own target file, else in the user's data folder."""
        return (self._folder or user_tables()) / f"{self.name}.json"

    @property
    def table_paths(self) -> tuple[Path, ...]:
        """Where tables of this target may be: measured here, else what came with jdnas, if the target did."""
        return (self.table_path,) if self._folder else (self.table_path, self.shipped_table_path)

    @property
    def shipped_table_path(self) -> Path:
        """Where a table that came with jdnas would be."""
        return DATA / f"{self.name}.json"

    @property
    def prior_path(self) -> Path:
        """Where a prior that the user imported goes: beside the table."""
        return self.table_path.with_name(f"{self.name}.prior.json")

    @property
    def prior_paths(self) -> tuple[Path, ...]:
        """Where priors of this target may be: imported by the user, else what came with jdnas, if the target did."""
        return (self.prior_path,) if self._folder else (self.prior_path, self.shipped_prior_path)

    @property
    def shipped_prior_path(self) -> Path:
        """Where a prior that came with jdnas would be."""
        return DATA / f"{self.name}.prior.json"


def user_tables() -> Path:
    """Return the folder of tables measured on this machine (`$JDNAS_LATENCY_DIR`, else the user's data folder)."""
    if folder := os.environ.get("JDNAS_LATENCY_DIR"):
        return Path(folder)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "jdnas" / "latency"


def known() -> tuple[str, ...]:
    """Return the names of the targets that come with jdnas."""
    return tuple(sorted(path.stem for path in (DATA / "targets").glob("*.yaml")))


def load_target(name_or_file: str | Path) -> Target:
    """Return a target by name, or read one from a YAML file; a TargetError says what is known or wrong."""
    path = Path(name_or_file)
    if path.suffix in _SUFFIXES:
        if not path.is_file():
            raise TargetError(f"target file {path} does not exist")
        target = _read(path)
        target._folder = path.resolve().parent
        return target
    name = str(name_or_file)
    if name not in known():
        raise TargetError(unknown_name("target", name, known(), "Describe a new one in a YAML file and pass its path"))
    return _read(DATA / "targets" / f"{name}.yaml")


def _read(path: Path) -> Target:
    try:
        return Target.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TargetError(f"target file {path} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        allowed = ", ".join(Target.model_fields)
        raise TargetError(f"target file {path}: {where}: {first['msg']} (got {first['input']!r}); keys are {allowed}") from error
