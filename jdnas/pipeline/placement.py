"""Where a run's candidates are worked on, and its engines timed: in this process, or on a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdnas.config import RunConfig
from jdnas.errors import ConfigError, unknown_name
from jdnas.pipeline.context import Context
from jdnas.pipeline.site import WorkshopSite, prepare_files
from jdnas.pipeline.storage import NAME_FILE, RunStorage, storage_of_run
from jdnas.search.executors.base import Executor
from jdnas.search.executors.on_ray import RayExecutor, Share, capacity, check_share, connect
from jdnas.search.workshop import Cost
from jdnas.student.actions import ActionRules
from jdnas.teacher.pool import TeacherPool
from jdnas.training.checkpoint import has_detector

EXECUTORS = ("local", "ray")


@dataclass(frozen=True, slots=True)
class Placement:
    """Options of the command line that say where work is done, and never what its result is.

    `workers`: candidates in flight (None: as many as the cluster has room for). `gpus_per_trial` None: 1 where the cluster has GPUs.
    `storage`: an fsspec URL for machines that do not see the run folder.
    """

    executor: str = "local"
    ray_address: str | None = None
    workers: int | None = None
    gpus_per_trial: float | None = None
    cpus_per_trial: float | None = None
    storage: str | None = None

    @property
    def on_ray(self) -> bool:
        """Whether candidates are tasks of a Ray cluster."""
        return self.executor == "ray"

    def share(self, config: RunConfig, ray: Any) -> Share:
        """Return what one candidate occupies."""
        gpus = self.gpus_per_trial
        if gpus is None:
            gpus = 0.0 if config.device == "cpu" else float(capacity(ray, Share(cpus=0.0, gpus=1.0)) > 0)
        return Share(cpus=1.0 if self.cpus_per_trial is None else self.cpus_per_trial, gpus=gpus)


LOCAL = Placement()


def check_placement(placement: Placement, config: RunConfig) -> None:
    """Connect to the cluster, and raise the InputError that the search would end in, before anything is written."""
    if placement.executor not in EXECUTORS:
        raise ConfigError(unknown_name("executor", placement.executor, EXECUTORS))
    if not placement.on_ray:
        given = {"ray-address": placement.ray_address, "workers": placement.workers, "gpus-per-trial": placement.gpus_per_trial,
                 "cpus-per-trial": placement.cpus_per_trial, "storage": placement.storage}  # fmt: skip
        if names := [f"--{name}" for name, value in given.items() if value is not None]:
            raise ConfigError(f"{', '.join(names)} only go with --executor ray")
        return
    if placement.storage is not None:
        RunStorage(placement.storage).check()
    if config.device == "cpu" and placement.gpus_per_trial:
        raise ConfigError(f"--gpus-per-trial {placement.gpus_per_trial:g} with device cpu; leave one of the two out")
    ray = connect(placement.ray_address)
    share = placement.share(config, ray)
    if config.device == "cuda" and not share.gpus:
        raise ConfigError("device cuda needs --gpus-per-trial above 0 and a node with a GPU")
    check_share(ray, share)


def storage_of(placement: Placement, context: Context) -> RunStorage | None:
    """Return where the run's files go beside its folder, if anywhere; a ConfigError says that they went to one before."""
    if placement.storage is not None:
        return storage_of_run(placement.storage, context.folder.root)
    if (context.folder.root / NAME_FILE).exists():
        raise ConfigError(
            f"candidates of {context.folder.root} are in a storage and not in its folder; resume it with the --executor ray --storage URL "
            "that it was begun with"
        )
    return None


@contextmanager
def executor_for(placement: Placement, context: Context, pool: TeacherPool, rules: ActionRules, cost: Cost) -> Iterator[Executor | None]:
    """Give the executor of a search; None stands for this process. On leaving, candidates in flight are stopped."""
    storage = storage_of(placement, context)
    if not placement.on_ray:
        yield None
        return
    ray = connect(placement.ray_address)
    share = placement.share(context.config, ray)
    prepare_files(context, storage)
    site = WorkshopSite(
        context.config, context.base_spec, context.sizes_hw, rules, cost, share, context.folder.root.resolve(), pool.version, storage
    )
    with RayExecutor(ray, site, share, workers=placement.workers) as executor:
        yield executor


def bring_home(placement: Placement, context: Context, stem: Path) -> None:
    """Fetch a candidate's weights into the run folder, if they are only in its storage."""
    storage = storage_of(placement, context)
    if storage is not None and not has_detector(stem):
        storage.fetch_detector(context.folder.root, stem)
