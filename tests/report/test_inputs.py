import json
from pathlib import Path

import pytest

from jdnas.errors import CheckpointError
from jdnas.presets import preset
from jdnas.report.inputs import finite, read_run, spec_or_none


def test_a_folder_without_summary_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no summary\.json .* --resume"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_malformed_summary_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"summary\.json .*; write it anew with: jdnas optimize --run-dir .* --resume"):
        read_run(tmp_path)


def test_report_data_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    run = read_run(tmp_path)
    assert (run.candidates, run.base, run.winner, run.model("student")) == ((), None, None, {})


def test_candidates_are_read(tmp_path: Path) -> None:
    spec = preset("r18", 7).to_dict()
    action = {"kind": "rearrange", "stage": 2, "target": 1, "position": 4, "ratio": 0.0}
    rows = [
        {"number": 1, "parent": 0, "action": action, "student": spec, "teacher": {"version": 99}, "state": "pruned", "best_size": [1, 2]},
        {"number": 0, "choice": "base", "state": "COMPLETE", "lineage": True, "ap": float("nan")},
    ]
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "report_data.json").write_text(json.dumps({"trials": rows}))
    run = read_run(tmp_path)
    first, second = run.candidates
    assert (first.number, first.action, first.state, first.ap, first.in_lineage) == (0, "base", "evaluated", None, True)
    assert (second.state, second.detail, second.size_hw) == ("refused", "stage 3, to stage 2, block 5", (1, 2))
    assert second.student == preset("r18", 7) and second.teacher is None
    assert run.base is first and run.winner is first


def test_finite_and_spec_or_none() -> None:
    assert [finite(v) for v in (1, 2.5, True, "3", None, float("inf"))] == [1.0, 2.5, None, None, None, None]
    assert spec_or_none({"version": 1}) is None and spec_or_none("r18") is None
