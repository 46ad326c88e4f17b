import json
import shutil
from pathlib import Path

import pytest
import torch

from jdnas.config import resolve
from jdnas.distill.settings import DistillSettings
from jdnas.distill.teacher import Teacher
from jdnas.models.bound import materialize
from jdnas.pipeline import detector_training
from jdnas.pipeline.context import Context, load_context
from jdnas.pipeline.detector_training import train_detector
from jdnas.pipeline.run_folder import RunFolder
from jdnas.training.checkpoint import load_detector, save_detector
from jdnas.training.loop import Resume
from tests.pipeline.conftest import NANO, NanoRun, jdnas


@pytest.fixture(scope="module")
def student(nano_run: NanoRun) -> Path:
    return nano_run.folder / "base" / "base.safetensors"


def distill(run_dir: Path, student: Path, teacher: object, *more: object) -> tuple[int, str, str]:
    return jdnas(
        "distill", "--teacher", teacher, "--student", student, "--data", "shapes", "--preset", NANO, "--run-dir", run_dir, *more
    )  # fmt: skip


def test_subnet_of_a_pool_teaches(nano_run: NanoRun, student: Path, tmp_path: Path) -> None:
    code, out, err = distill(tmp_path / "kd", student, f"{nano_run.folder}:largest", "--rounds", 2)
    assert code == 0, out + err
    result = json.loads((tmp_path / "kd" / "distill.json").read_text())
    assert [r["teacher"] for r in result["rounds"]] == ["d=3-3-3-3,w=1.5,n=1.5"] * 2
    spec, state, meta = load_detector(tmp_path / "kd" / "student" / "student")
    before, old, _ = load_detector(student.with_suffix(""))
    assert spec == before and set(state) == set(old)
    assert not torch.equal(state["backbone.stem.conv.weight"], old["backbone.stem.conv.weight"])
    assert len(meta["rounds"]) == 2 and meta["classes"] == ["circle", "rectangle", "triangle"]
    # More rounds of the same run go on from there; another teacher does not.
    code, _, err = distill(tmp_path / "kd", student, f"{nano_run.folder}:largest", "--rounds", 3, "--resume")
    assert code == 0, err
    again = json.loads((tmp_path / "kd" / "distill.json").read_text())
    assert again["rounds"][:2] == result["rounds"] and len(again["rounds"]) == 3
    code, _, err = distill(tmp_path / "kd", student, f"{nano_run.folder}:smallest", "--resume")
    assert code == 2 and "was begun with teacher" in err


def test_dynamic_teachers_change_from_round_to_round(nano_run: NanoRun, student: Path, tmp_path: Path) -> None:
    code, out, err = distill(tmp_path / "kd", student, f"{nano_run.folder}:dynamic", "--rounds", 3, "--method", "logit")
    assert code == 0, out + err
    teachers = {r["teacher"] for r in json.loads((tmp_path / "kd" / "distill.json").read_text())["rounds"]}
    assert len(teachers) > 1


def test_one_detector_teaches_by_imitation(student: Path, tmp_path: Path) -> None:
    code, out, err = distill(tmp_path / "kd", student, student, "--method", "fgfi", "--epochs", 0.4)
    assert code == 0, out + err
    assert json.loads((tmp_path / "kd" / "distill.json").read_text())["method"] == "fgfi"


def test_what_does_not_fit_is_refused_before_anything_is_written(nano_run: NanoRun, student: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    spec, state, _ = load_detector(student.with_suffix(""))
    save_detector(other, spec, state, {"classes": ["circle", "square", "triangle"]})
    pool = tmp_path / "pool"
    for suffix in (".json", ".safetensors"):
        shutil.copy(nano_run.folder / "pool" / f"pool{suffix}", pool.with_suffix(suffix))
    header = json.loads(pool.with_suffix(".json").read_text())
    header["meta"]["pool"]["classes"] = ["a", "b", "c"]
    pool.with_suffix(".json").write_text(json.dumps(header))
    cases = [
        (student, f"{nano_run.folder}:huge", "names no subnet; write largest"),
        (student, f"{nano_run.folder}:d=1-2-2-2", "smaller than any subnet"),
        (student, nano_run.folder / "pool" / "pool.safetensors", "is a teacher pool; say which subnet teaches"),
        (student, f"{pool}.safetensors:largest", "was trained for classes ['a', 'b', 'c']"),
        (student, f"{other}.safetensors", "was trained for classes circle, square, triangle"),
        (Path(f"{other}.safetensors"), f"{nano_run.folder}:largest", "was trained for classes circle, square, triangle"),
        (student, tmp_path / "nothing.safetensors", "no such file"),
    ]
    for index, (pupil, teacher, message) in enumerate(cases):
        code, _, err = distill(tmp_path / f"run{index}", pupil, teacher)
        assert code == 2 and err.count("\n") == 1 and message in err, err
        assert not (tmp_path / f"run{index}" / "student").exists()
    code, _, err = distill(nano_run.folder, student, student, "--resume")
    assert code == 2 and "holds a run of another command; choose another --run-dir" in err
    code, _, err = distill(tmp_path / "last", student, student, "--method", "magic")
    assert code == 2 and "unknown method 'magic'; known: fgfi, logit, ours" in err


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return load_context(resolve(str(NANO), {}), RunFolder(tmp_path_factory.mktemp("context") / "run"))


def base_of(nano_run: NanoRun) -> dict[str, torch.Tensor]:
    return load_detector(nano_run.folder / "base" / "base")[1]


@pytest.mark.parametrize("adapter", ["copy", "least_squares"])
def test_interrupted_distillation_ends_in_the_same_weights(
    nano_run: NanoRun, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    state, settings = base_of(nano_run), context.config.candidate_train
    teacher = Teacher.fixed(materialize(context.base_spec, state), context.base_spec)
    distill = DistillSettings(normalize_features=True, warmup=0.5, adapter=adapter)  # type: ignore[arg-type]
    options = {"seed": 3, "teacher": teacher, "distill": distill, "steps": 3}
    whole, _ = train_detector(context, context.base_spec, state, settings, **options)  # type: ignore[arg-type]

    def dying(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    resume = Resume(tmp_path / "partial.safetensors", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train_detector(context, context.base_spec, state, settings, resume=resume, on_step=dying, **options)  # type: ignore[arg-type]
    assert resume.path.exists()
    resumed, report = train_detector(context, context.base_spec, state, settings, resume=resume, **options)  # type: ignore[arg-type]
    assert report.steps == 3
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_the_teacher_leaves_after_its_epochs(nano_run: NanoRun, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, asked, teach = base_of(nano_run), [], Teacher.teach
    monkeypatch.setattr(Teacher, "teach", lambda *given: asked.append(1) or teach(*given))
    settings = context.config.candidate_train.model_copy(update={"accumulate": 2})
    teacher = Teacher.fixed(materialize(context.base_spec, state), context.base_spec)
    epoch = len(context.train.records) / settings.batch
    steps, half = round(4 * epoch), DistillSettings(until_epochs=2.0)
    resume = Resume(tmp_path / "partial.safetensors", 0.0)
    first, _ = train_detector(
        context, context.base_spec, state, settings, seed=3, steps=steps, teacher=teacher, distill=half, resume=resume
    )
    assert len(asked) == round(2 * epoch) * settings.accumulate
    # To its end, the teacher is asked all the time, and what half a lesson left is not taken for a part of that training.
    second, _ = train_detector(
        context, context.base_spec, state, settings, seed=3, steps=steps, teacher=teacher, distill=DistillSettings(), resume=resume
    )
    assert len(asked) == round(6 * epoch) * settings.accumulate
    assert any(not torch.equal(first[name], tensor) for name, tensor in second.items())


def test_steps_that_are_not_finite_are_skipped_and_counted(nano_run: NanoRun, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    state = base_of(nano_run)
    teacher = Teacher.fixed(materialize(context.base_spec, state), context.base_spec)
    original = detector_training.distill_terms
    calls = []

    def sometimes(*args: object, **options: object) -> dict[str, torch.Tensor]:
        terms = original(*args, **options)  # type: ignore[arg-type]
        calls.append(1)
        return {name: term * float("nan") for name, term in terms.items()} if len(calls) == 2 else terms

    monkeypatch.setattr(detector_training, "distill_terms", sometimes)
    trained, report = train_detector(
        context, context.base_spec, state, context.config.candidate_train, seed=1, teacher=teacher, steps=3
    )  # fmt: skip
    assert (report.steps, report.skipped) == (3, 1)
    assert all(torch.isfinite(tensor).all() for tensor in trained.values())
