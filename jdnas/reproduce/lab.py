"""Where a reproduction works: its data, and the bases, pools and searches that its tables and figures share."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from jdnas.config import RunConfig, make_config, merge
from jdnas.data.shapes import make_shapes
from jdnas.errors import ConfigError
from jdnas.models.weights import State
from jdnas.pipeline.base import check_sources
from jdnas.pipeline.context import SHAPES, Context, load_context
from jdnas.pipeline.optimize import optimize, run_until
from jdnas.pipeline.run_folder import MAY_CHANGE, RunFolder, begin_run, open_run
from jdnas.reproduce.provenance import command
from jdnas.reproduce.records import Record
from jdnas.reproduce.scale import Scale, read_scale
from jdnas.search.history import History
from jdnas.search.study import SearchStudy
from jdnas.teacher.pool import TeacherPool, load_pool
from jdnas.training.checkpoint import has_detector, load_detector, read_json, write_json


@dataclass(frozen=True)
class Lab:
    """A scale on a data set in a work folder. Bases, pools and searches are made when first asked for, and kept there.

    `weights`: for some bases, the trained weights that they start from.
    """

    scale: Scale
    config: RunConfig
    work: Path
    console: Console
    quiet: bool = False
    weights: Mapping[str, str] = field(default_factory=dict)
    _contexts: dict[tuple[str, int], Context] = field(default_factory=dict, repr=False)

    @property
    def seed(self) -> int:
        """The seed of everything that is made once."""
        return self.scale.seeds[0]

    def run_config(self, model: str, seed: int) -> RunConfig:
        """Return the settings of the run of a model's base."""
        base = self.scale.base_of(model)
        return self.config.model_copy(update={"base": base, "seed": seed, "weights": self.weights.get(base)})

    def folder(self, model: str, seed: int) -> RunFolder:
        """Return the run folder of a model's base."""
        return RunFolder(self.work / "runs" / f"{self.scale.base_of(model)}_{seed}")

    def context(self, model: str, seed: int | None = None) -> Context:
        """Return what experiments on a model's base work with; its run folder is begun."""
        seed = self.seed if seed is None else seed
        key = (self.scale.base_of(model), seed)
        if key not in self._contexts:
            folder, config = open_run(self.folder(model, seed).root, self.run_config(model, seed), resume=True)
            check_sources(config)
            self._contexts[key] = load_context(config, folder)
            begin_run(folder, config)
        return self._contexts[key]

    def base(self, model: str, seed: int | None = None) -> tuple[State, Record]:
        """Return the trained base of a model and what is known of it."""
        seed = self.seed if seed is None else seed
        folder = self.context(model, seed).folder
        if not has_detector(folder.base):
            run_until("base", self.run_config(model, seed), folder.root, resume=True, console=self.console, quiet=self.quiet)
        _, state, meta = load_detector(folder.base)
        return state, meta

    def pool(self, seed: int | None = None) -> TeacherPool:
        """Return the teacher pool of a seed, which grows from the base of the scale's `pool_model`."""
        seed, model = self.seed if seed is None else seed, self.scale.pool_model
        context = self.context(model, seed)
        if not has_detector(context.folder.pool):
            run_until("pool", self.run_config(model, seed), context.folder.root, resume=True, console=self.console, quiet=self.quiet)
        return load_pool(context.folder.pool, context.train.classes)

    def ready(self, model: str, seed: int) -> RunFolder:
        """Return the run folder of a model's base with the base trained and a copy of the shared pool in it."""
        folder = self.folder(model, seed)
        self.base(model, seed)
        self.pool(seed)
        _lend(self.folder(self.scale.pool_model, seed).pool.parent, folder.pool.parent)
        return folder

    def search(self, model: str, seed: int) -> Record:
        """Run the main job from a model's base with the shared pool, and return its summary."""
        folder = self.folder(model, seed)
        if not folder.summary.is_file():
            config = self.run_config(model, seed)
            optimize(config, self.ready(model, seed).root, resume=True, console=self.console, command=command(), quiet=self.quiet)
        return read_json(folder.summary)

    def history(self, model: str, seed: int) -> History:
        """Return the candidates of a search that was run."""
        with SearchStudy.load(self.folder(model, seed).study_url) as study:
            return study.history


def _lend(pool: Path, to: Path) -> None:
    """Give a run folder a copy of a pool, whole or not at all."""
    if pool == to or to.exists():
        return
    unfinished = to.with_name("pool.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(pool, unfinished, ignore=shutil.ignore_patterns("phase_*", "*.partial*", "statistics"))
    os.replace(unfinished, to)


def open_lab(
    scale: str, *, data: str | None, work: Path, overrides: dict[str, Any], weights: Mapping[str, str], console: Console, quiet: bool
) -> Lab:  # fmt: skip
    """Return a lab; an InputError says what is wrong with the settings, or that the work folder was begun with others.

    `data` replaces that of the scale; `overrides` are nested settings of its runs.
    """
    read = read_scale(scale)
    unknown = sorted(set(weights) - set(read.models.values()))
    if unknown:
        raise ConfigError(
            f"--weights {unknown[0]}=...: the scale has no base {unknown[0]!r}; it has {', '.join(sorted(read.models.values()))}"
        )
    settings = merge(read.run_settings(), overrides) | ({} if data is None else {"data": data}) | {"preset": f"reproduce/{scale}"}
    config = make_config(settings, source=f"scale {scale!r} and the command line")
    for model in read.models:
        check_sources(config.model_copy(update={"base": read.base_of(model), "weights": weights.get(read.base_of(model))}))
    _hold_to_first(work / "reproduce.json", read, config, weights)
    if config.data == SHAPES:
        wanted = config.data_settings
        make_shapes(work / SHAPES, train=wanted.shapes_train, val=wanted.shapes_val, size=wanted.shapes_size, seed=read.seeds[0])
        config = config.model_copy(update={"data": str(work / SHAPES)})
    return Lab(read, config, work, console, quiet, dict(weights))


def _hold_to_first(path: Path, scale: Scale, config: RunConfig, weights: Mapping[str, str]) -> None:
    """Keep what a work folder was begun with, or raise a ConfigError where it was something else: records would not belong together."""
    asked: Record = {
        "scale": scale.model_dump(mode="json", exclude={"run", "preset"}),
        "run": config.model_dump(mode="json"),
        "weights": dict(weights),
    }
    for setting in MAY_CHANGE:
        *section, key = setting.split(".")
        (asked["run"][section[0]] if section else asked["run"]).pop(key, None)
    if not path.exists():
        if path.parent.exists() and any(path.parent.iterdir()):
            raise ConfigError(f"{path.parent} is not empty and holds no reproduction; choose another --work")
        write_json(path, asked)
        return
    kept = read_json(path)
    changed = sorted(f"{part}.{key}" for part in asked for key in asked[part] if kept.get(part, {}).get(key) != asked[part][key])
    if changed:
        raise ConfigError(f"{path.parent} was begun with other {', '.join(changed)}; use the same settings, or choose another --work")
