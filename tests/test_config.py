from pathlib import Path

import pytest
import yaml

from jdnas.config import RunConfig, dump, make_config, parse_overrides, presets_folder, read_yaml, resolve, resolve_kept
from jdnas.errors import ConfigError
from jdnas.training.schedule import schedule_named


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_shipped_preset_is_valid() -> None:
    names = sorted(path.stem for path in presets_folder().glob("*.yaml"))
    assert {"custom", "quick"} <= set(names)
    for name in names:
        assert resolve(name, {}).preset == name


def test_overrides_change_single_keys_of_a_section(tmp_path: Path) -> None:
    preset = write(tmp_path / "p.yaml", "search: {trials: 4, k: 2}\npool: {phases: [{epochs: 1}, {epochs: 2}]}\n")
    config = resolve(str(preset), parse_overrides(["search.trials=9", "pool.phases=[{epochs: 7}]"]))
    assert (config.search.trials, config.search.k) == (9, 2)
    assert [phase.epochs for phase in config.pool.phases] == [7]
    assert config.base_train == RunConfig().base_train


def test_overrides_are_yaml_and_the_last_one_wins() -> None:
    pairs = ["a.b=1", "a.c=[1, 2]", "a.b=2.5", "d=x=y", "e=", "f=true"]
    assert parse_overrides(pairs) == {"a": {"b": 2.5, "c": [1, 2]}, "d": "x=y", "e": None, "f": True}


@pytest.mark.parametrize("pair", ["", "search.trials", "=3", "a=[1", "a=b: c: d", "a=@x"])
def test_malformed_overrides(pair: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_overrides([pair])


def test_dump_is_read_back_equal(tmp_path: Path) -> None:
    config = resolve("custom", {"weights": "a b.safetensors", "seed": 3})
    assert resolve_kept(write(tmp_path / "c.yaml", dump(config)), {}) == config
    assert resolve_kept(tmp_path / "c.yaml", {"search": {"trials": 1}}).search.trials == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"serach": {}}, r"here: serach: unknown setting; known here: base, target, .*search"),
        ({"search": {"trails": 1}}, r"search\.trails: unknown setting; known here: seed, trials, patience"),
        ({"pool": {"train": {"lrr": 1}}}, r"pool\.train\.lrr: unknown setting; known here: epochs, batch"),
        ({"pool": {"phases": [{"epochs": 1}, {"x": 1}]}}, r"pool\.phases\.1\.x: unknown setting; known here: epochs, depth_share"),
        ({"model": {"neck": 0}}, r"model\.neck: .*greater than or equal to 8 \(got 0\)"),
        ({"model": {"neck": 0}, "sed": 1}, r"model\.neck: .*; sed: unknown|sed: unknown.*; model\.neck: "),
        ({"search": 3}, r"search: .*got 3"),
        ({"search": None}, r"search: .*got None"),
        ({"student": {"prune_ratios": [0.1, 1.5]}}, r"student\.prune_ratios\.1: .*less than 1"),
        ({"data_settings": {"long_sides": [8]}}, r"data_settings\.long_sides\.0: .*32"),
        ({"search": {"max_cost": 1, "min_ap": 0.5}}, r"max_cost and min_ap"),
        ({1: 2}, r"1: "),
    ],
)
def test_wrong_settings_are_all_named(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_config(settings, source="here")
    assert "\n" not in str(caught.value) and str(caught.value).endswith("jdnas config")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("- 1", "must hold a mapping of settings, got list"),
        ("", "got NoneType"),
        ("a: !!python/object:x {}", "valid YAML"),
    ],
)
def test_files_that_are_no_settings(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(write(tmp_path / "p.yaml", text))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    for name, message in (("none.yaml", "no such settings file"), ("folder.yaml", "cannot be read"), ("binary.yaml", "not valid YAML")):
        with pytest.raises(ConfigError, match=message):
            resolve(str(tmp_path / name), {})


def test_settings_do_not_change(tmp_path: Path) -> None:
    config = RunConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    assert yaml.safe_load(dump(config))["seed"] == 0


@pytest.mark.parametrize("base", ["r18", "r50", "r101", "x101_32x4d"])
def test_paper_preset_takes_the_bases_of_table_4(base: str) -> None:
    from jdnas.pipeline.context import base_spec_of
    from jdnas.teacher.space import make_space

    config = resolve("paper", {"base": base})
    space = make_space(base_spec_of(config, 80, 1333), config.pool)
    widths = 5 if base == "r18" else 6  # a basic block's stage has the stem's width
    assert space.size(len(config.data_settings.long_sides)) == 264 * 3**widths * 4, "6: the paper's 'roughly 765,000' (3.1.3)"
    schedule = schedule_named("2x+ms")
    kept = config.base_train.model_dump()
    assert {key: kept[key] for key in schedule} == schedule


def test_presets_for_long_runs_say_their_estimate_first() -> None:
    assert {name: resolve(name, {}).estimate_first for name in ("quick", "custom", "deploy", "paper")} == {
        "quick": False, "custom": True, "deploy": True, "paper": True
    }  # fmt: skip


def test_deploy_searches_heads_and_considers_int8() -> None:
    config = resolve("deploy", {})
    assert config.student.heads and config.export.precision == "auto"
