"""Where a detector's files go, by the name that it was given."""

from pathlib import Path

import pytest

from jdnas.errors import ConfigError
from jdnas.pipeline.distillation import read_student
from jdnas.pipeline.prune import check_out
from jdnas.training.checkpoint import has_detector, load_detector, save_detector, stem_of
from tests.models.specs import plain_spec, random_state


@pytest.mark.parametrize("name", ["r50.v2", "pruned_0.3", "a.b.c", "plain"])
def test_a_dot_in_a_name_is_part_of_it(tmp_path: Path, name: str) -> None:
    spec = plain_spec("resnet_basic")
    stem = stem_of(tmp_path / f"{name}.safetensors")
    assert not has_detector(stem)
    save_detector(stem, spec, random_state(spec), {"classes": ["a", "b"]})
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.safetensors", f"{name}.json"}
    assert has_detector(stem) and load_detector(stem)[0] == spec
    student, classes = read_student(tmp_path / f"{name}.safetensors")
    assert student.spec == spec and classes == ("a", "b")


def test_what_is_made_of_a_detector_goes_beside_it(tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    check_out(tmp_path / "base.pruned.safetensors", base)
    for weights in (base, base.with_suffix(".json")):
        with pytest.raises(ConfigError, match="would overwrite"):
            check_out(base, weights)
