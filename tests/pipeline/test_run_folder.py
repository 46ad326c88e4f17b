from pathlib import Path

import pytest

from jdnas.config import RunConfig
from jdnas.errors import CheckpointError, ConfigError
from jdnas.pipeline.run_folder import RunFolder, begin_run, open_run, run_lock
from tests.pipeline.conftest import jdnas
from tests.pipeline.tiny import make_tiny

CONFIG = RunConfig(base="r34", seed=3)


def changed(**sections: dict) -> RunConfig:
    return CONFIG.model_copy(update={name: getattr(CONFIG, name).model_copy(update=keys) for name, keys in sections.items()})


@pytest.fixture
def begun(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    begin_run(folder, CONFIG)
    return folder


def test_a_new_run_writes_nothing_until_it_begins(tmp_path: Path) -> None:
    for resume in (False, True):
        folder, config = open_run(tmp_path / "a" / "run", CONFIG, resume=resume)
        assert config == CONFIG and not (tmp_path / "a").exists()
    begin_run(folder, config)
    assert open_run(folder.root, CONFIG, resume=True)[1] == CONFIG
    assert [path.name for path in folder.root.iterdir()] == ["config.yaml"]


def test_an_empty_folder_is_a_new_run(tmp_path: Path) -> None:
    assert open_run(tmp_path, CONFIG, resume=False)[1] == CONFIG


def test_folders_in_use(begun: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a run already; continue it with --resume"):
        open_run(begun.root, CONFIG, resume=False)
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        open_run(tmp_path, CONFIG, resume=True)
    with pytest.raises(ConfigError, match="is a file"):
        open_run(begun.config_file, CONFIG, resume=True)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (CONFIG.model_copy(update={"base": "r50"}), r"base=r34 \(now r50\)"),
        (CONFIG.model_copy(update={"seed": 4}), r"seed=3 \(now 4\)"),
        (CONFIG.model_copy(update={"weights": "w.safetensors"}), r"weights=None \(now w\.safetensors\)"),
        (changed(search={"alpha": 0.5}), r"search\.alpha=0\.15 \(now 0\.5\)"),
        (changed(base_train={"epochs": 1.0}), r"base_train\.epochs=24\.0 \(now 1\.0\)"),
    ],
)
def test_other_settings_are_refused_by_name(begun: RunFolder, other: RunConfig, named: str) -> None:
    with pytest.raises(ConfigError, match=f"was begun with {named}; resume"):
        open_run(begun.root, other, resume=True)


@pytest.mark.parametrize(
    "other", [changed(search={"trials": 7}), CONFIG.model_copy(update={"device": "cpu"}), changed(data_settings={"workers": 3})]
)
def test_budgets_and_the_machine_may_change(begun: RunFolder, other: RunConfig) -> None:
    folder, config = open_run(begun.root, other, resume=True)
    assert config == other
    begin_run(folder, config)
    assert open_run(begun.root, other, resume=True)[1] == other


def test_another_budget_makes_results_out_of_date(begun: RunFolder) -> None:
    kept = [begun.base.with_suffix(".safetensors"), begun.candidate(1).with_suffix(".json")]
    stale = [begun.summary, begun.student.with_suffix(".onnx"), begun.student.with_name("student.parity.json")]
    for path in (*kept, *stale):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    begin_run(begun, CONFIG)
    begin_run(begun, CONFIG.model_copy(update={"device": "cpu"}))
    assert all(path.exists() for path in stale)
    begin_run(begun, changed(search={"trials": 7}))
    assert all(path.exists() for path in kept) and not any(path.exists() for path in stale)


def test_a_run_that_another_process_works_in_is_left_as_it_is(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "run").context.folder
    for path in (folder.summary, folder.student.with_suffix(".safetensors"), folder.root / "request.json"):  # as a distillation leaves it
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    before = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}
    weights = folder.base.with_suffix(".safetensors")
    with run_lock(folder):
        for command in ("optimize", "search", "compare", f"distill --student {weights} --teacher {weights}"):
            code, _, err = jdnas(*command.split(), "--run-dir", folder.root, "--resume", "--set", "search.trials=40")
            assert code == 2 and f"another process works in {folder.root}; stop it, wait for it, or choose another --run-dir" in err, err
    assert {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file() and path.name != ".lock"} == before


@pytest.mark.parametrize("text", ["base: [", "bse: r18\n", "- 1\n", ""])
def test_a_damaged_config_file(begun: RunFolder, text: str) -> None:
    begun.config_file.write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.yaml.*restore the file or choose another --run-dir"):
        open_run(begun.root, CONFIG, resume=True)
