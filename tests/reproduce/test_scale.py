"""Scales are plain data, and a work folder belongs to one of them."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jdnas.config import make_config, presets_folder
from jdnas.errors import ConfigError
from jdnas.reproduce import items
from jdnas.reproduce.items import ITEMS, Item, named, reproduce
from jdnas.reproduce.lab import Lab, open_lab
from jdnas.reproduce.layout import Result, Table
from jdnas.reproduce.records import Job
from jdnas.reproduce.scale import read_scale, scale_names
from jdnas.training.checkpoint import read_json


def lab(work: Path, scale: str = "tiny", data: str | None = None, **more: object) -> Lab:
    overrides: dict[str, object] = dict(more)
    return open_lab(scale, data=data, work=work, overrides=overrides, weights={}, console=Console(quiet=True), quiet=True)


@pytest.mark.parametrize("name", ["tiny", "small", "paper"])
def test_shipped_scales_are_valid_runs(name: str) -> None:
    scale = read_scale(name)
    config = make_config(scale.run_settings(), source=name)
    assert scale.label.startswith(name) and config.cost == "multiply_adds"
    assert set(scale.models) >= {scale.pool_model, *scale.table2.models, *scale.table4.models, scale.figure4.student}


def test_the_paper_scale_has_the_papers_rows() -> None:
    from jdnas.reproduce import paper

    scale = read_scale("paper")
    assert tuple(scale.models) == ("R18-FPN", "R50-FPN", "R101-FPN", "X101-FPN") == scale.table4.models
    assert {model for model, _ in paper.TABLE1} == set(scale.table1.subnets)
    assert {model for model, _ in paper.TABLE2} == set(scale.table2.models)
    assert {(pair.student, pair.teacher) for pair in scale.table3.pairs} == {key[:2] for key in paper.TABLE3}


def test_names() -> None:
    assert scale_names() == ("paper", "small", "tiny")
    assert named("all") == list(ITEMS) and named("table2") == ["table2"]
    with pytest.raises(ConfigError, match="unknown table or figure 'table6'; known: all, .*table4"):
        named("table6")
    with pytest.raises(ConfigError, match="unknown scale 'huge'; known: paper, small, tiny"):
        read_scale("huge")


def test_a_scale_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("label: mine\nmodels: {A: r18}\npool_model: B\n")
    with pytest.raises(ConfigError, match="mine.yaml: table1: Field required"):
        read_scale(str(mine))
    text = (presets_folder() / "reproduce" / "tiny.yaml").read_text()
    mine.write_text(text.replace("pool_model: R18-FPN", "pool_model: R34-FPN"))
    with pytest.raises(ConfigError, match="unknown model of the scale 'R34-FPN'; known: R18-FPN, R50-FPN"):
        read_scale(str(mine))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  finetune_epochs: 1", "  finetune_epochs: 1\n  ratios: [0.1, 0.102]", r"table2.ratios .* would be kept as '10 %'"),
        ("  finetune_epochs: 1", "  finetune_epochs: 1\n  ratios: [0.004]", r"table2.ratios .* would be kept as '0 %'"),
        ("  pairs:\n", "  pairs:\n    - {student: R18 FPN, teacher: X}\n", r"students of table3.pairs would be kept as 'R18_FPN'"),
    ],
)
def test_rows_that_would_share_a_record_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    mine, text = tmp_path / "mine.yaml", (presets_folder() / "reproduce" / "tiny.yaml").read_text()
    assert text.count(old) == 1
    mine.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=rf"mine.yaml: several {said}; name each pair's student differently"):
        read_scale(str(mine))


def test_a_layout_leaves_out_what_has_no_records_and_keeps_the_trainings_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = lab(tmp_path / "work")
    done = Job(tmp_path / "done.json", "done", lambda: {"ap": 0.5})
    unlike = Item(lambda _: [replace(done, path=tmp_path / "missing.json")], lambda *_: pytest.fail("has no records"))
    there = Item(lambda _: [done], lambda *_: Result(Table("title", ("AP",), [("0.5",)], ()), []))
    monkeypatch.setattr(items, "ITEMS", {"table1": unlike, "table2": there})
    monkeypatch.setattr("jdnas.reproduce.records.provenance", lambda: {"command": "the training"})
    done.record()
    assert reproduce("all", own, tmp_path, scale="tiny", table_only=True) == [tmp_path / "table2.md"]
    document = read_json(tmp_path / "table2.json")
    assert document["provenance"] == [{"command": "the training"}] and "commit" in document["laid_out_with"]
    with pytest.raises(ConfigError, match="table1 has no records in .*; leave out --table-only"):
        reproduce("table1", own, tmp_path, scale="tiny", table_only=True)


def test_a_work_folder_keeps_to_what_it_was_begun_with(tmp_path: Path) -> None:
    work = tmp_path / "work"
    first = lab(work)
    assert first.config.data == str(work / "shapes") and (work / "shapes" / "annotations" / "val.json").exists()
    assert lab(work).config == first.config
    assert lab(work, device="cpu", search={"trials": 9}).config.search.trials == 9  # budgets and devices may change
    with pytest.raises(ConfigError, match=r"work was begun with other run\.candidate_train; use the same settings"):
        lab(work, candidate_train={"epochs": 2})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="full is not empty and holds no reproduction"):
        lab(tmp_path / "full")


def test_wrong_input_writes_nothing(tmp_path: Path) -> None:
    work = tmp_path / "work"
    with pytest.raises(ConfigError, match="search.trails: unknown setting"):
        lab(work, search={"trails": 3})
    with pytest.raises(ConfigError, match="the scale has no base 'r34'; it has r18, r50"):
        open_lab("tiny", data=None, work=work, overrides={}, weights={"r34": "w.pth"}, console=Console(quiet=True), quiet=True)
    assert not work.exists()
