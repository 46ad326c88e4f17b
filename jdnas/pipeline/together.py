"""Training of base and pool by several processes: the first leads, writes and evaluates, the others compute their share of every step."""

from dataclasses import replace
from pathlib import Path

from jdnas.config import RunConfig
from jdnas.errors import ConfigError
from jdnas.pipeline.base import base_resume, initial_state
from jdnas.pipeline.context import Context, load_context, pick_device
from jdnas.pipeline.detector_training import train_detector
from jdnas.pipeline.pool import train_shared_state
from jdnas.pipeline.run_folder import RunFolder
from jdnas.teacher.space import make_space
from jdnas.training.checkpoint import has_detector, load_detector
from jdnas.training.distributed import check_team, launch


def check_devices(config: RunConfig, devices: int, nodes: int, *, with_pool: bool = False) -> None:
    """Raise the InputError that a training on so many devices would end in, before anything is written."""
    check_team(devices, nodes)
    world, trainings = devices * nodes, {"base_train": config.base_train} | ({"pool.train": config.pool.train} if with_pool else {})
    for name, train in trainings.items():
        if train.batch % (train.accumulate * world):
            parts = f" in {train.accumulate} parts" if train.accumulate > 1 else ""
            raise ConfigError(f"a batch of {train.batch}{parts} cannot be shared by {world} devices; give a multiple: --set {name}.batch=N")


def with_team(context: Context, devices: int, nodes: int) -> Context:
    """Start the other processes, or meet the one that started this one; return what this process works with."""
    team = launch(devices, nodes, context.device)
    if team.world == 1:
        return context
    team.wait()
    return replace(context, team=team, device=team.fabric.device)


def follow(config: RunConfig, run_dir: Path, devices: int, nodes: int, *, with_pool: bool = False) -> None:
    """Take part in the training of the base (and the pool) that the first process leads; nothing is written here.

    The run folder, which every process reads, is complete when the first process calls the others in.
    """
    team = launch(devices, nodes, pick_device(config.device))
    team.wait()
    context = replace(load_context(config, RunFolder(run_dir)), team=team, device=team.fabric.device)
    if config.train_base and not has_detector(context.folder.base):
        settings = context.config.base_train
        start, _ = initial_state(context)
        train_detector(context, context.base_spec, start, settings, seed=context.config.seed, resume=base_resume(context))
    if with_pool and not has_detector(context.folder.pool):
        team.wait()  # until the base is written
        base_state = load_detector(context.folder.base)[1]
        train_shared_state(context, make_space(context.base_spec, context.config.pool), base_state)
    team.leave()
