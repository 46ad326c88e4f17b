"""How large a reproduction is: settings of its trainings, which detectors stand in each row, and how many seeds. Plain data in YAML."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from jdnas.config import merge, presets_folder, read_preset, read_yaml
from jdnas.errors import ConfigError, unknown_name
from jdnas.reproduce.records import file_name
from jdnas.settings import Settings

Ratio = Annotated[float, Field(gt=0, lt=1)]
Names = dict[str, str]
TableMethod = Literal["plain", "logit", "fgfi", "ours"]


class TeacherTable(Settings):
    """Table 1: which subnets of the pool, by their names in the table."""

    subnets: Names = Field(min_length=1)


class PruneTable(Settings):
    """Table 2: models, shares of channels that go, epochs of fine-tuning."""

    models: tuple[str, ...] = Field(min_length=1)
    ratios: tuple[Ratio, ...] = (0.1, 0.2, 0.3)
    finetune_epochs: float = Field(3.0, gt=0)


class DistillPair(Settings):
    """A student and a teacher: their names in the table, and the settings of a run in which they differ from those of the scale."""

    student: str
    teacher: str
    student_settings: dict[str, Any] = {}
    teacher_settings: dict[str, Any] = {}


class DistillTable(Settings):
    """Table 3: pairs and methods. Both nets train by `base_train`; `student_train` and `teacher_train` replace parts of it."""

    pairs: tuple[DistillPair, ...] = Field(min_length=1)
    methods: tuple[TableMethod, ...] = ("plain", "logit", "fgfi", "ours")
    student_train: dict[str, Any] = {}
    teacher_train: dict[str, Any] = {}


class DynamicFigure(Settings):
    """Figure 4: the student, and rounds of `candidate_train` with a teacher each."""

    student: str
    rounds: int = Field(6, ge=1)


class SearchTable(Settings):
    """Table 4 and Figures 5 to 7: the base models."""

    models: tuple[str, ...] = Field(min_length=1)


class CompareTable(Settings):
    """Tables 5 and 7: the base model and the methods of each."""

    model: str
    table5: tuple[str, ...] = ("prune-kd", "nas-prune-kd", "joint")
    table7: tuple[str, ...] = ("random", "joint")


class Scale(Settings):
    """Everything that decides a reproduction, but the data.

    `preset` and, on top of it, `run`: the settings of all runs. `models`: names in the tables to bases.
    """

    label: str
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    preset: str | None = None
    run: dict[str, Any] = {}
    models: Names = Field(min_length=1)
    pool_model: str
    table1: TeacherTable
    table2: PruneTable
    table3: DistillTable
    table4: SearchTable
    compare: CompareTable
    figure4: DynamicFigure

    def run_settings(self) -> dict[str, Any]:
        """Return the settings of all runs, nested."""
        return merge({} if self.preset is None else read_preset(self.preset), self.run)

    def base_of(self, model: str) -> str:
        """Return the base that a model's name stands for; a ConfigError lists the names."""
        if model not in self.models:
            raise ConfigError(unknown_name("model of the scale", model, self.models))
        return self.models[model]


def scale_names() -> tuple[str, ...]:
    """Return the names of the shipped scales."""
    return tuple(sorted(path.stem for path in (presets_folder() / "reproduce").glob("*.yaml")))


def read_scale(name: str) -> Scale:
    """Read a shipped scale by its name, or a YAML file; a ConfigError says what is wrong with it."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else presets_folder() / "reproduce" / f"{name}.yaml"
    if not name.endswith((".yaml", ".yml")) and name not in scale_names():
        raise ConfigError(unknown_name("scale", name, scale_names(), "A file of one's own is given as a path that ends in .yaml"))
    try:
        scale = Scale.model_validate(read_yaml(path))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"{path}: {problems}") from error
    used = (scale.pool_model, *scale.table2.models, *scale.table4.models, scale.compare.model, scale.figure4.student)
    for model in used:
        scale.base_of(model)
    _check_record_names(scale, path)
    return scale


def _check_record_names(scale: Scale, path: Path) -> None:
    """Raise a ConfigError where two rows of a table would be kept in one record."""
    students = [file_name(pair.student) for pair in scale.table3.pairs]
    ratios = [f"{100 * ratio:.0f} %" for ratio in (0.0, *scale.table2.ratios)]
    for what, names in (("students of table3.pairs", students), ("table2.ratios (and the baseline's 0)", ratios)):
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(
                f"{path}: several {what} would be kept as {twice!r}; name each pair's student differently, by letters and digits, and let "
                "ratios differ in whole percent"
            )
