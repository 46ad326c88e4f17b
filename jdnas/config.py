"""Settings of a run: pydantic models read from YAML presets, files and `--set` overrides. Unknown keys are errors."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, field_serializer

from export.settings import ExportSettings
from jdnas.data.images import Cache
from jdnas.distill.settings import DistillSettings
from jdnas.errors import ConfigError, unknown_name
from jdnas.passwords import without_passwords
from jdnas.search.settings import SearchSettings
from jdnas.settings import Settings
from jdnas.spec import DetectorSpec
from jdnas.student.actions import ActionRules
from jdnas.student.settings import StudentSettings
from jdnas.teacher.settings import PoolSettings
from jdnas.training.schedule import schedule_named
from jdnas.training.settings import TrainSettings
from latency.targets import load_target

DEFAULT_PRESET = "quick"


class DataSettings(Settings):
    """How images are read.

    `long_sides`: resolutions to train and evaluate at, as long sides in pixels; the canvas takes the data set's typical
    orientation. They are capped at the size of the images. `shapes_*`: size of the synthetic default set.
    """

    long_sides: tuple[Annotated[int, Field(ge=32)], ...] = Field((600, 800), min_length=1)
    workers: int = Field(0, ge=0)
    cache: Cache = Field("auto", description="where decoded images stay: ram, disk (memory-mapped), none; auto: ram up to 1.5 GB a split")
    repeat_threshold: float = Field(0.0, ge=0, le=1, description="show images of classes on a smaller share of images more often; 0: off")
    eval_batch: int = Field(8, ge=1)
    shapes_train: int = Field(320, ge=1)
    shapes_val: int = Field(120, ge=1)
    shapes_size: int = Field(128, ge=32)


class ModelSettings(Settings):
    """The base detector beyond its family.

    `scratch_width`: factor on backbone widths where no pretrained weights exist, so that presets for small machines stay
    trainable. `anchor_reference`: long side in pixels at which anchors are 32..512; smaller canvases scale them down.
    `roi_sampling`: RoIAlign's samples per bin and direction in place of those that given weights were trained with; 2 costs a
    fraction of the 0 (as many as a bin has pixels) of detectron2's and mmdetection's detectors, and training adapts to it.
    """

    scratch_width: float = Field(1.0, gt=0)
    neck: int = Field(256, ge=8)
    head_width: int = Field(1024, ge=8)
    rpn_width: int = Field(256, ge=8)
    proposals: int = Field(1000, ge=1)
    candidates: int = Field(1000, ge=1)
    train_proposals: int = Field(2000, ge=1)
    train_candidates: int = Field(2000, ge=1)
    roi_samples: int = Field(512, ge=1)
    anchor_reference: int = Field(800, ge=32)
    roi_sampling: int | None = Field(None, ge=0)


class RunConfig(Settings):
    """Everything that decides a run of `jdnas optimize`; the run folder keeps it as config.yaml.

    `train_base` false: `weights` are a detector trained for the data's classes, and are taken as the base as they are.
    `pretrained_lr_factor`: factor on every learning rate where the base starts from trained weights, which large steps would undo.
    `checkpoint_seconds`: how often the state of a long training is saved, so that a killed run loses no more. `study_url`: database of
    the search's study, by default a file of the run folder; its password is written nowhere. `estimate_first`: measure a training step
    before the run starts, and say how long it will take. `tensorboard`: write losses, learning rates, AP and scores for it into the run
    folder.
    """

    base: str = "r18"
    target: str = "cpu-ort"
    data: str = "shapes"
    preset: str = DEFAULT_PRESET
    weights: str | None = None
    train_base: bool = True
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cost: Literal["latency", "multiply_adds"] = "latency"
    pretrained_lr_factor: float = Field(1.0, gt=0)
    data_settings: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    base_train: TrainSettings = TrainSettings()
    pool: PoolSettings = PoolSettings()
    student: StudentSettings = StudentSettings()
    candidate_train: TrainSettings = TrainSettings(epochs=3)
    distill: DistillSettings = DistillSettings()
    search: SearchSettings = SearchSettings()
    study_url: str | None = Field(None, repr=False)
    export: ExportSettings = ExportSettings()
    example_images: int = Field(4, ge=0)
    parity_images: int = Field(32, ge=1)
    benchmark_seconds: float = Field(10.0, gt=0)
    checkpoint_seconds: float = Field(20.0, ge=0)
    estimate_first: bool = False
    tensorboard: bool = False

    @field_serializer("study_url")
    def _without_password(self, url: str | None) -> str | None:
        return None if url is None else without_passwords(url)

    @property
    def width_step(self) -> int:
        """What the student's widths are multiples of: the setting, else what suits the target."""
        return self.student.width_step or load_target(self.target).width_step

    def action_rules(self, base: DetectorSpec) -> ActionRules:
        """Return the rules of student actions around a base, with the width step of the target."""
        return self.student.rules(base, width_step=self.width_step)


def presets_folder() -> Path:
    """Return the folder of the shipped presets: `configs/` of a source tree, or its copy inside an installed package."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "configs"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; a ConfigError says what is wrong with the file."""
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"no such settings file: {path}") from error
    except OSError as error:
        raise ConfigError(f"settings file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, got {type(data).__name__}")
    return data


def read_preset(name: str) -> dict[str, Any]:
    """Read a shipped preset, or a YAML file when `name` ends in .yaml."""
    if name.endswith((".yaml", ".yml")):
        return read_yaml(Path(name))
    known = {path.stem: path for path in presets_folder().glob("*.yaml")}
    if name not in known:
        raise ConfigError(unknown_name("preset", name, known, "A settings file is given as a path that ends in .yaml"))
    return read_yaml(known[name])


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings with those of `over` on top."""
    merged = dict(base)
    for key, value in over.items():
        merged[key] = merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def scheduled(name: str | None) -> dict[str, Any]:
    """Return the settings of base training that a named schedule stands for; none where no name is given."""
    return {} if name is None else {"base_train": schedule_named(name)}


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """Turn `["search.trials=20"]` into nested settings; values are read as YAML."""
    result: dict[str, Any] = {}
    for pair in pairs:
        path, sign, value = pair.partition("=")
        if not sign or not path:
            raise ConfigError(f"--set takes KEY=VALUE such as search.trials=20, got {pair!r}")
        try:
            nested: Any = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {pair}: the value is not valid YAML; write lists as [1, 2] and quote special characters") from error
        for key in reversed(path.split(".")):
            nested = {key: nested}
        result = merge(result, nested)
    return result


def make_config(settings: dict[str, Any], *, source: str) -> RunConfig:
    """Validate settings; a ConfigError names each wrong key, where it came from and what is allowed."""
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                problems.append(f"{key}: unknown setting; known here: {', '.join(_keys_beside(item['loc']))}")
            else:
                problems.append(f"{key}: {item['msg']} (got {item['input']!r})")
        message = without_passwords(f"{source}: {'; '.join(problems)}")
        raise ConfigError(f"{message}. All settings with their values: jdnas config") from error


def _keys_beside(location: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the section that a dotted key lies in."""
    section: type[Settings] = RunConfig
    for part in location[:-1]:
        if isinstance(part, str):  # an integer is a place in a list of sections
            kind = section.model_fields[part].annotation
            section = next(t for t in (kind, *get_args(kind)) if isinstance(t, type) and issubclass(t, Settings))
    return list(section.model_fields)


def resolve(preset: str, overrides: dict[str, Any]) -> RunConfig:
    """Return the preset's settings with `overrides` on top."""
    settings = merge(read_preset(preset), overrides)
    return make_config({**settings, "preset": preset}, source=f"settings (preset {preset!r} and the command line)")


def resolve_kept(path: Path, overrides: dict[str, Any]) -> RunConfig:
    """Return the settings that a run folder keeps in its config.yaml, with `overrides` on top."""
    return make_config(merge(read_yaml(path), overrides), source=str(path))


def dump(config: RunConfig) -> str:
    """Return the settings as YAML text."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
