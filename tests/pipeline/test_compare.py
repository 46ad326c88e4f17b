"""`jdnas compare` on a tiny run, and what its table says of it."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
from rich.console import Console

from jdnas.data.images import DiskStore, image_store
from jdnas.errors import ConfigError, DataError
from jdnas.models.complexity import multiply_adds
from jdnas.pipeline import baselines, compare
from jdnas.pipeline.arena import Arena, BranchFolder
from jdnas.pipeline.baselines import METHODS, RandomWorkshop, UntaughtWorkshop
from jdnas.pipeline.compare import Contest, ap_at
from jdnas.pipeline.compare_table import cell, lines, markdown
from jdnas.pipeline.context import Context
from jdnas.pipeline.progress import JobProgress
from jdnas.pipeline.run_folder import RunFolder
from jdnas.search.study import SearchStudy, sqlite_url
from jdnas.training.checkpoint import load_detector
from tests.pipeline.conftest import jdnas
from tests.pipeline.tiny import NANO, Tiny, make_tiny


def cost(spec, size_hw) -> float:
    return float(multiply_adds(spec, size_hw))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("compare") / "run")


@pytest.fixture(scope="module")
def arena(tiny: Tiny) -> Arena:
    """Eight images a candidate, forty for a method."""
    context = replace(tiny.context, folder=BranchFolder(tiny.context.folder.root / "compare" / "x", tiny.context.folder))
    return Arena(context, tiny.pool, cost, 40, 0.8 * cost(tiny.context.base_spec, tiny.context.base_size_hw), lambda line: None)


def branch(arena: Arena, name: str) -> Arena:
    root = arena.context.folder.root.with_name(name)
    return replace(arena, context=replace(arena.context, folder=BranchFolder(root, arena.context.folder.run)))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_uses_its_images_and_leaves_weights_behind_every_point(arena: Arena, method: str) -> None:
    own = branch(arena, method)
    found = METHODS[method](own)
    assert arena.images - own.images_each < found.images <= arena.images
    assert {point.number for point in found.points} == set(found.stems) and 0 in found.stems
    for point in found.points:
        spec, _, _ = load_detector(found.stems[point.number])
        assert point.cost == cost(spec, tuple(map(int, point.size.split("x"))))
    again = METHODS[method](own)
    assert (again.points, again.images, again.candidates) == (found.points, found.images, found.candidates)


def test_pipelines_prune_to_the_cost_that_they_are_given_and_no_further(arena: Arena) -> None:
    own = branch(arena, "prune-kd")
    baselines.prune_kd(own)
    spec = load_detector(own.context.folder.root / "pipeline" / "student")[0]
    size = own.context.base_size_hw
    step = cost(own.context.base_spec, size) * 0.12  # widths go in steps
    assert own.target_cost - step < cost(spec, size) <= own.target_cost


def test_nas_changes_layers_alone_and_has_no_teacher(arena: Arena) -> None:
    own = branch(arena, "nas")
    baselines.nas(own)
    with SearchStudy.load(sqlite_url(own.context.folder.root / "study.db")) as study:
        changes = {trial.candidate.change for trial in study.history if trial.number}
    assert changes <= {"prune_layer", "add_layer", "rearrange"} and changes
    assert UntaughtWorkshop(own.context, own.pool, own.rules).teacher(None, own.context.base_spec) is None


def test_a_polished_joint_search_trains_its_best_on_with_that_ones_teacher(arena: Arena) -> None:
    own = branch(arena, "joint-polish")
    found = baselines.joint_polish(own)
    with SearchStudy.load(sqlite_url(own.context.folder.root / "study.db")) as study:
        best, searched = study.history.best(), study.history.images
    assert searched <= own.images // 2 < found.images
    number = max(found.stems)
    assert found.stems[number] == own.context.folder.root / "pipeline" / "student"
    assert load_detector(found.stems[number])[0] == best.student and found.teachers[number] == best.teacher


def test_random_candidates_descend_from_the_base_alone(arena: Arena) -> None:
    own = branch(arena, "random")
    baselines.random_search(own)
    with SearchStudy.load(sqlite_url(own.context.folder.root / "study.db")) as study:
        trials = [trial for trial in study.history if trial.number]
    assert {trial.parent for trial in trials} == {0} and {trial.state for trial in trials} == {"complete"}
    assert len({trial.teacher for trial in trials}) > 1
    workshop = RandomWorkshop(own.context, own.pool, own.rules)
    assert [workshop.evolve(trial.candidate) for trial in trials] == [trial.student for trial in trials]


def test_the_command_makes_a_table_and_does_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    make_tiny(folder)
    arguments = ("compare", "--run-dir", folder, "--resume", "--methods", "random,joint,prune-kd", "--images", 16, "--seeds", 0, 1)
    code, out, err = jdnas(*arguments)
    assert code == 0, out + err
    table = json.loads((folder / "compare.json").read_text())
    assert [row["method"] for row in table["rows"]] == ["random", "joint", "prune-kd"]
    assert {(run["method"], run["seed"]) for run in table["runs"]} == {(m, s) for m in ("random", "joint", "prune-kd") for s in (0, 1)}
    for row in table["rows"]:
        own = [run for run in table["runs"] if run["method"] == row["method"]]
        assert row["score"]["values"] == [run["score"] for run in own]
        assert row["score"]["mean"] == pytest.approx(mean(row["score"]["values"])) and row["score"]["std"] == stdev(row["score"]["values"])
        assert max(row["images"]["values"]) <= 16
    joint = {run["seed"]: run for run in table["runs"] if run["method"] == "joint"}
    for run in table["runs"]:
        if run["method"] == "prune-kd":
            assert run["target_cost"] == min(joint[run["seed"]]["cost_at_base_size"], table["base"]["cost"])
    rows = {row["method"]: row for row in table["rows"]}
    pairs = zip(rows["joint"]["score"]["values"], rows["random"]["score"]["values"], strict=True)
    assert rows["random"]["gain_of"]["joint"]["values"] == [mine - other for mine, other in pairs] and not rows["joint"]["gain_of"]
    assert table["judged_on"].startswith("3 validation images") and table["chosen_on"] == "3 validation images"
    assert (folder / "compare.md").read_text() == markdown(table) and "AP at 70% cost" in markdown(table)
    monkeypatch.setitem(METHODS, "joint", None)
    monkeypatch.setitem(METHODS, "random", None)
    code, out, err = jdnas(*arguments, "--json")
    assert code == 0 and json.loads(out)["rows"] == table["rows"]
    code, _, err = jdnas(*(20 if value == 16 else value for value in arguments))
    assert code == 2 and "was begun with images_allowed=16 (now 20); give the same --images" in err
    code, _, err = jdnas(*arguments, "--prune-to", 0.5)
    assert code == 2 and f"prune-kd_0 was begun with target_cost={joint[0]['cost_at_base_size']}" in err and "delete that folder" in err


def test_an_unfinished_method_is_held_to_what_it_was_begun_for(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = replace(tiny.context, folder=RunFolder(tmp_path))

    def one(method: str, target_cost: float, images: int = 16) -> None:
        monkeypatch.setitem(METHODS, method, interrupted)
        compare._one(context, context, tiny.pool, cost, method, 0, images, target_cost, JobProgress(Console(), 1.0, quiet=True))

    def interrupted(arena: Arena) -> None:
        raise KeyboardInterrupt

    for again in (0.7e6 * (1 + 1e-9), 0.7e6):
        with pytest.raises(KeyboardInterrupt):
            one("prune-kd", again)
    with pytest.raises(ConfigError, match=r"prune-kd_0 was begun with target_cost=700000\.0 \(now 500000\.0\); give the same"):
        one("prune-kd", 0.5e6)
    with pytest.raises(ConfigError, match=r"begun with images_allowed=16 \(now 24\)"):
        one("prune-kd", 0.7e6, images=24)
    for unneeded in (0.7e6, 0.5e6):
        with pytest.raises(KeyboardInterrupt):
            one("joint", unneeded)


def with_settings(context: Context, section: str, **keys: object) -> Context:
    own = getattr(context.config, section).model_copy(update=keys)
    return replace(context, config=context.config.model_copy(update={section: own}))


def test_both_halves_keep_their_images_as_the_settings_say(tiny: Tiny, tmp_path: Path) -> None:
    context = replace(with_settings(tiny.context, "data_settings", cache="disk"), folder=RunFolder(tmp_path))
    choosing, judging = compare._halves(context)
    assert len(choosing.val.records) == len(judging.val.records) == 3
    assert all(isinstance(image_store(half.val), DiskStore) for half in (choosing, judging))
    alone = replace(context, val=replace(context.val, records=context.val.records[:1]))
    with pytest.raises(DataError, match=r"shapes has 1 validation image; a comparison chooses by one half.*add images"):
        compare._halves(alone)


def test_the_base_is_scored_by_the_goal_as_the_methods_are(tiny: Tiny) -> None:
    run = {"method": "nas", "seed": 0, "ap": 0.1, "score": 0.1, "cost_share": 0.5, "images": 8, "candidates": 1, "front": []}
    limit = cost(tiny.context.base_spec, tiny.context.base_size_hw) / 2
    for keys, name in (({}, "H"), ({"max_cost": limit}, "score")):
        choosing, judging = compare._halves(with_settings(tiny.context, "search", **keys))
        table = compare._table(choosing, judging, cost, Contest(("nas",), (0,)), [run], 8)
        assert table["base"]["score"] == (pytest.approx(-1.0) if keys else table["base"]["ap"])
        assert lines(table)[0][1] == name and ("H has the base's cost" in markdown(table)) is (name == "H")


def test_one_line_for_wrong_input(tmp_path: Path) -> None:
    for arguments, words in (
        (("--methods", "joint,magic"), "unknown method 'magic'; known: joint, joint-polish, nas, nas-prune-kd, prune-kd, random"),
        (("--methods", "joint,joint"), "name each method and seed once"),
        (("--seeds", "0", "x"), "--seeds takes whole numbers such as 0 1 2, got '0 x'"),
        (("--equal", "seconds"), "unknown --equal 'seconds'; known: images"),
        (("--prune-to", "2"), "--prune-to is a share of the base's cost in 0..1, got 2"),
    ):
        code, _, err = jdnas("compare", "--run-dir", tmp_path / "run", *arguments)
        assert code == 2 and words in err, err
        assert not (tmp_path / "run").exists()


def test_too_few_images_are_refused_before_anything_is_written(tiny: Tiny, tmp_path: Path) -> None:
    data = tiny.context.folder.root / "shapes"
    code, _, err = jdnas("compare", "--preset", NANO, "--data", data, "--images", 4, "--run-dir", tmp_path / "run")
    assert code == 2 and "4 images are less than one candidate trains on (8); give more with --images" in err, err
    assert not (tmp_path / "run").exists()


def test_ap_at_a_cost_is_what_one_would_choose_and_not_what_turns_out_best() -> None:
    front = [
        {"number": 1, "size": "8x8", "cost": 2.0, "ap": 0.30, "ap_judged": 0.35},
        {"number": 2, "size": "8x8", "cost": 3.0, "ap": 0.40, "ap_judged": 0.20},
    ]
    assert [ap_at({"front": front}, limit) for limit in (1.0, 2.0, 3.0)] == [None, 0.35, 0.20]


def test_cells() -> None:
    assert cell({"mean": 0.51234, "std": 0.01}) == "0.5123 ± 0.0100" and cell({"mean": 0.5, "std": None}, 2) == "0.50" and cell(None) == "–"


def test_a_contest_names_its_methods() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        Contest((), (0,))
