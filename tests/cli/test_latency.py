import json
from pathlib import Path

import pytest

from latency.prior import read_prior


@pytest.fixture(autouse=True)
def _no_tables_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDNAS_LATENCY_DIR", str(tmp_path / "tables"))


def rows() -> str:
    lines = [
        f"{{Regular,1,{reads},{side},{side},{writes},3,1,{add}}} {0.01 + 1e-9 * reads * writes * side * side}"
        for reads in (8, 16, 32, 64) for writes in (8, 16, 32, 64) for side in (8, 16, 32, 64) for add in (0, 1)
    ]  # fmt: skip
    return "\n".join([*lines, "{Regular,1,8,8,8,8,3,1,0} -1", "{Regular,32,8,8,8,8,3,1,0} 0.5"]) + "\n"


def test_targets_says_what_is_known_and_what_is_here(jdnas) -> None:
    Path("board.yaml").write_text("name: my-board\ndevice: my board\nruntime: tensorrt\nprecision: int8\nbatch: 4\n")
    lines = {line.split()[0]: line for line in jdnas("latency", "targets", "board.yaml").out.splitlines() if line.strip()}
    assert "third-party prior" in lines["v100-trt"] and "no: needs tensorrt" in lines["v100-trt"]
    assert "shipped table" in lines["cpu-ort"] and lines["cpu-ort"].split()[-1] == "yes"
    assert "nothing" in lines["t4-trt"]
    assert "batch 4" in " ".join(lines["my-board"].split()) or "my board" in lines["my-board"]


def test_import_conv_library(jdnas, tmp_path: Path) -> None:
    Path("rows.out").write_text(rows())
    out = jdnas("latency", "import-conv-library", "rows.out", "--source", "a paper", "--licence", "MIT").out
    assert "128 rows of batch 1 (1 failed ones (-1) and 1 of other batches left out)" in out and "mean error" in out
    prior = read_prior(tmp_path / "tables" / "v100-trt.prior.json")
    assert prior.lineage["source"] == "a paper" and prior.rows
    jdnas("latency", "import-conv-library", "rows.out", "--coefficients-only", "--out", "small.json")
    assert not read_prior(Path("small.json")).rows


def test_import_of_wrong_files(jdnas) -> None:
    assert "none.xz does not exist" in jdnas("latency", "import-conv-library", "none.xz").error
    Path("rows.out").write_text(json.dumps({"rows": []}))
    assert "rows.out, line 1 is" in jdnas("latency", "import-conv-library", "rows.out", "--out", "made.json").error
    assert "unknown target 'v100'" in jdnas("latency", "import-conv-library", "rows.out", "--target", "v100").error
    assert not Path("made.json").exists()
