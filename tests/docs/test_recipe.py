"""The X101 recipe: its commands as they stand in the page, on tiny nets and a synthetic data set."""

import re
import shlex
from pathlib import Path

import pytest

from jdnas.data.shapes import make_shapes
from jdnas.training.checkpoint import load_detector, read_json
from tests.docs.pages import DOCS, code_lines
from tests.pipeline.conftest import NANO, jdnas

pytestmark = pytest.mark.slow
# The shape of X101 on two cores in seconds: the page's preset is for GPUs.
TINY = {"path/to/coco": "my_data", "v100-trt": "cpu-ort", "--preset paper": "--preset tiny.yaml", "--epochs 16": "--epochs 1"}


def test_the_recipe_runs_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_shapes(Path("my_data"), train=8, val=4, size=64)
    settings = NANO.read_text().replace("long_sides: [64, 96]", "long_sides: [64]").replace("trials: 3", "trials: 1")
    Path("tiny.yaml").write_text(settings.replace("scratch_width: 0.125", "scratch_width: 0.0625"))
    page = (DOCS / "recipes" / "x101.md").read_text()
    marked = page.split("<!-- run -->")[1:]
    lines = [
        line.strip() for part in marked for line in code_lines(re.split(r"\n\n", part.lstrip("\n"))[0]).splitlines() if "jdnas " in line
    ]
    assert [line.split()[1] for line in lines] == ["optimize", "upgrade", "distill", "eval"]
    for line in lines:
        for written, tiny in TINY.items():
            line = line.replace(written, tiny)
        code, out, err = jdnas(*shlex.split(line)[1:])
        assert code == 0, f"{line}\n{err}"
    base = load_detector(Path("runs/x101/base/base"))[0]
    student, tuned = (load_detector(Path(stem))[0] for stem in ("runs/x101/student/student", "runs/x101_tuned/student/student"))
    assert base.family == "resnext_4d" and base.depths == (3, 4, 23, 3)
    assert tuned.stages == student.stages and tuned.deformable == (1, 2, 3) and tuned.head.kind == "cascade"
    assert read_json(Path("runs/x101_tuned/distill.json"))["rounds"][0]["images"] == 8
