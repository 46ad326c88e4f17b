import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from jdnas.config import RunConfig, resolve
from jdnas.errors import ConfigError, DataError
from jdnas.models.complexity import multiply_adds
from jdnas.pipeline import probe as probing
from jdnas.pipeline.context import Context, load_context
from jdnas.pipeline.estimate import _added_up, _images, estimate, estimate_of, time_text
from jdnas.pipeline.plan import work_plan
from jdnas.pipeline.probe import Probe, _saved_for_backward, probe
from jdnas.pipeline.run_folder import RunFolder
from jdnas.teacher.space import make_space
from tests.pipeline.conftest import NANO, jdnas


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return load_context(resolve(str(NANO), {}), RunFolder(tmp_path_factory.mktemp("estimate") / "run"))


def silent(what: str, done: int, total: int) -> None: ...


def test_the_sum_by_hand(context: Context) -> None:
    """12 training and 6 validation images at two sizes; base and candidates 12 images, phases 8 and 12, batch 4."""
    space = make_space(context.base_spec, context.config.pool)
    base, largest = (Probe(look, train, 0.5, 2**30, 2**28) for look, train in ((1.0, 4.0), (2.0, 10.0)))
    found = _added_up(context, space, base, replace(largest, weight_bytes=2**31))
    small, large = (multiply_adds(context.base_spec, size) for size in context.sizes_hw)
    share = (small / large + 1) / 2
    steps = {step.name.split(",")[0]: step for step in found.steps}
    images = work_plan(context).images
    assert steps["base"].train_images == images["base"] == 12
    assert steps["base"].seconds == pytest.approx(12 * (share * 4 + 0.5) + 6)
    assert steps["teacher pool"].train_images == images["pool"] == 20
    low, high = (multiply_adds(spec, context.base_size_hw) for spec in (context.base_spec, space.largest))
    smallest = 4 + 6 * (multiply_adds(space.smallest, context.base_size_hw) - low) / (high - low)
    nets = 12 + 8 * (share * 10 + 0.5) + 12 * (share * (10 + smallest + 4) + 0.5)
    assert steps["teacher pool"].seconds == pytest.approx(nets)
    candidate = images["candidate"]
    assert steps["search"].train_images == 3 * candidate and steps["search"].look_images == 3 * 2 * 6
    assert steps["search"].seconds == pytest.approx(3 * (candidate * (share * (4 + 2) + 0.5) + 2 * 6 * share))
    assert steps["control"].seconds == pytest.approx(candidate * (share * 4 + 0.5) + 6)
    assert found.seconds == pytest.approx(sum(step.seconds for step in found.steps))
    assert steps["base"].memory_gib == pytest.approx(4 + 4 / 4), "weights, gradient and two moments of AdamW; four images at a time"
    assert steps["search"].memory_gib == pytest.approx(4 + 1 + 2) and found.memory_gib == pytest.approx(2 * 4 + 1)


def test_polishing_counts_for_student_and_control(context: Context) -> None:
    space = make_space(context.base_spec, context.config.pool)
    one = Probe(1.0, 4.0, 0.0, 2**30, 2**28)
    longer = replace(context, config=context.config.model_copy(update={
        "search": context.config.search.model_copy(update={"polish_epochs": 2.0})
    }))  # fmt: skip
    before, after = ({step.name: step for step in _added_up(one_context, space, one, one).steps} for one_context in (context, longer))
    assert after.keys() - before.keys() == {"polish"} and after["polish"].train_images == 24
    assert after["control"].train_images == before["control"].train_images + 24
    plan = work_plan(longer)
    assert plan.images["polish"] == 24
    expected = plan.images["control"]
    assert plan.control(expected) == plan.control() and plan.control(2 * expected) - plan.control() == pytest.approx(
        expected * plan.training
    )


def test_a_plan_polishes_as_the_run_would(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[RunConfig] = []

    def stop(config: RunConfig, **more: object) -> None:
        planned.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("jdnas.api.runs.estimate", stop)
    jdnas("optimize", "--plan", "--preset", NANO, "--polish-epochs", 3)
    assert planned[0].search.polish_epochs == 3.0


def test_images_that_a_run_would_keep(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(cache: str) -> float:
        data = context.config.data_settings.model_copy(update={"cache": cache})
        return _images(replace(context, config=context.config.model_copy(update={"data_settings": data})))

    val, train = (count * 96 * 96 * 3 for count in (6, 12))
    assert [kept(cache) for cache in ("auto", "ram", "disk", "none")] == [train + val, train + val, train + val, 0]
    monkeypatch.setattr("jdnas.pipeline.estimate.CACHE_LIMIT_BYTES", val)
    assert [kept("auto"), kept("ram")] == [val, train + val]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "not estimated"), (4.4, "4 s"), (100, "2 min"), (5300, "88 min"), (7200, "2.0 h"), (990_788, "275 h")]
)
def test_times_for_people(seconds: float | None, text: str) -> None:
    assert time_text(seconds) == text


def test_what_was_not_measured_is_not_made_up(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "LONGEST_STEP_S", 0.0)
    found = estimate_of(context, silent)
    assert found.seconds is None and found.memory_gib is None
    assert [step.seconds is None for step in found.steps] == [True] * 4 + [False]
    assert "not estimated" in found.line() and any("plan on the machine" in note for note in found.notes)


def test_a_probe_measures_and_leaves_nothing_behind(context: Context) -> None:
    before = torch.random.get_rng_state()
    base, largest = (probe(context, spec) for spec in (context.base_spec, make_space(context.base_spec, context.config.pool).largest))
    assert base.train_s is not None and min(base.train_s, base.look_s, base.load_s) > 0
    assert largest.weight_bytes > base.weight_bytes > 0
    assert largest.activation_bytes is not None and base.activation_bytes is not None
    assert largest.activation_bytes > base.activation_bytes > 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_bytes_for_the_backward_pass_by_hand() -> None:
    weight = torch.ones(10, 10, requires_grad=True)
    x = torch.ones(5, 10)
    with _saved_for_backward({weight.untyped_storage().data_ptr()}) as saved:
        y = (x @ weight).exp()  # keeps x for the weight's gradient, and its own result
    assert sum(saved.values()) == 4 * (50 + 50)
    y.sum().backward()


def test_plan_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = jdnas("optimize", "--plan", "--json", "--preset", NANO, "--run-dir", "run")
    assert code == 0, err
    found = json.loads(out)
    assert [step["name"] for step in found["steps"]][:2] == ["base", "teacher pool"] and found["seconds"] > 0
    assert found["device"] == "cpu" and found["memory_gib"] > 0 and found["disk_gib"] > 0
    assert found["images_gib"] == pytest.approx((12 + 6) * 96 * 96 * 3 / 2**30)
    assert list(tmp_path.iterdir()) == []
    code, out, _ = jdnas("optimize", "--plan", "--preset", NANO, "--quiet")
    assert code == 0 and out == ""


def test_plan_refuses_what_a_run_would(tmp_path: Path) -> None:
    for wrong, error in (({"base": "r17"}, ConfigError), ({"data": str(tmp_path / "nowhere")}, DataError)):
        config: RunConfig = resolve(str(NANO), wrong)
        with pytest.raises(error):
            estimate(config, console=Console(), quiet=True)


@pytest.mark.gpu
def test_a_probe_on_the_gpu(tmp_path: Path) -> None:
    context = load_context(resolve(str(NANO), {"device": "cuda"}), RunFolder(tmp_path / "run"))
    found = estimate_of(context, silent)
    assert found.device == "cuda" and found.seconds is not None and found.seconds > 0
    assert found.memory_gib is not None and found.memory_gib > 0
