"""A worker that sees neither the run folder nor the data set makes the candidates that the driver would have made."""

import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch

from jdnas.config import resolve_kept
from jdnas.errors import CheckpointError, ConfigError, DataError
from jdnas.pipeline.context import Context, load_context
from jdnas.pipeline.pool import load_pool
from jdnas.pipeline.run_folder import RunFolder
from jdnas.pipeline.site import WorkshopSite, prepare_files
from jdnas.pipeline.speed import make_cost, student_rules
from jdnas.pipeline.storage import RunStorage
from jdnas.pipeline.workshop import StudentWorkshop
from jdnas.search.executors.on_ray import Share
from jdnas.search.workshop import Candidate
from jdnas.training.checkpoint import load_detector
from tests.pipeline.conftest import NanoRun

pytestmark = pytest.mark.slow
URL = "memory://test_site/run"


@pytest.fixture
def context(nano_run: NanoRun, tmp_path: Path) -> Context:
    """A run with base and pool and no candidates."""
    for name in ("base", "pool", "shapes"):
        shutil.copytree(nano_run.folder / name, tmp_path / "run" / name)
    shutil.copy(nano_run.folder / "config.yaml", tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    return load_context(resolve_kept(folder.config_file, {}), folder)


def site_of(context: Context, storage: RunStorage | None) -> WorkshopSite:
    config, pool = context.config, load_pool(context.folder.pool)
    rules = student_rules(config, context.base_spec)
    root = context.folder.root
    return WorkshopSite(config, context.base_spec, context.sizes_hw, rules, make_cost(config), Share(), root, pool.version, storage)


def candidate(context: Context, number: int, parent: int) -> Candidate:
    pool = load_pool(context.folder.pool)
    action = {"kind": "prune_channels", "ratio": 0.1}
    return Candidate(number, parent, 0, "student", action, context.base_spec, pool.space.largest, 17 + number, {})


def test_through_storage_the_result_is_that_of_the_driver(context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = RunStorage(URL)
    prepare_files(context, storage)
    monkeypatch.setenv("JDNAS_SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    site = replace(site_of(context, storage), root=Path("/not/there"))
    here = StudentWorkshop(context, load_pool(context.folder.pool), site.rules)
    hidden = context.folder.root / "shapes"
    first = candidate(context, 1, 0)
    student = here.evolve(first)
    outcome = here.evaluate(first, student)
    hidden.rename(tmp_path / "hidden")  # the worker must not find it
    try:
        bench = site.open()
        assert bench.workshop.evolve(first) == student
        assert bench.workshop.evaluate(first, student) == outcome
        assert bench.cost(student, (96, 96)) == site.cost(student, (96, 96))
        copies = list((tmp_path / "scratch").glob("jdnas-*/candidates/0001/student.safetensors"))
        assert len(copies) == 1
        own, theirs = load_detector(context.folder.candidate(1))[1], load_detector(copies[0].with_suffix(""))[1]
        assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
        shutil.rmtree(copies[0].parents[2])  # another machine: the parent comes from the storage
        again = site.open().workshop
        second = replace(candidate(context, 2, 1), origin=student)
        assert again.evolve(second) == here.evolve(second)
        assert storage.has("candidates/0001/student.json")
    finally:
        fsspec.filesystem("memory").rm("/test_site", recursive=True)


def test_a_shared_folder_is_used_as_it_is(context: Context) -> None:
    prepare_files(context, None)
    bench = site_of(context, None).open()
    first = candidate(context, 1, 0)
    bench.workshop.evaluate(first, bench.workshop.evolve(first))
    assert context.folder.candidate(1).with_suffix(".json").exists()


def test_what_a_machine_lacks_is_said(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_files(context, None)
    site = site_of(context, None)
    with pytest.raises(
        CheckpointError, match="does not see the run folder .*elsewhere; mount it there at the same path, or give --storage"
    ):
        replace(site, root=Path("elsewhere")).open()
    with pytest.raises(ConfigError, match="has jdnas .*, the driver 0.0; install the same"):
        replace(site, version="0.0").open()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="was given a GPU by Ray"):
        replace(site, share=Share(gpus=1.0)).open()
    (context.folder.root / "shapes").rename(context.folder.root / "moved")
    with pytest.raises(DataError, match="does not see the image .*; mount the data set"):
        site.open()
