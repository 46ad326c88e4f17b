import json
from pathlib import Path

import pytest

from latency.blocks import blocks_of
from latency.plan import Case
from latency.prior import read_prior
from latency.timing import Timing

NANO = Path(__file__).parents[1] / "pipeline" / "nano.yaml"


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
    assert "third-party prior" in lines["v100-trt"] and "no: tensorrt missing" in lines["v100-trt"]
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


@pytest.mark.parametrize("budget", ["0", "-3m", "soon", "", "15", "0s", "nan"])
def test_budgets(jdnas, budget: str) -> None:
    assert "a budget is a time such as 2h, 1h30m, 90m or 45s" in jdnas("latency", "measure", f"--budget={budget}").error


def test_tables_are_refused_where_they_do_not_fit(jdnas, tmp_path: Path) -> None:
    for budget in ("15m", "1h30m", "1d"):
        error = jdnas("latency", "measure", "--target", "t4-trt", "--preset", NANO, "--budget", budget).error
        assert "cannot be measured here" in error
    assert "unknown base 'r17'" in jdnas("latency", "measure", "--base", "r17").error
    assert "WIDTHxHEIGHT" in jdnas("latency", "measure", "--size", "800").error
    Path("cut.json").write_text('{"version": 1, "target"')
    assert "cut.json is truncated or not JSON" in jdnas("latency", "validate", "--table", "cut.json", "--preset", NANO).error
    assert "cut.json is truncated or not JSON" in jdnas("latency", "adapt", "cut.json", "--preset", NANO).error
    assert "none.json does not exist" in jdnas("latency", "validate", "--table", "none.json", "--preset", NANO).error
    assert not (tmp_path / "tables").exists() and not Path("validation.json").exists()


def test_predict_says_what_it_rests_on(jdnas) -> None:
    prior = " ".join(jdnas("latency", "predict", "r50", "--size", "1333x800", "--target", "v100-trt").out.split())
    assert "third-party prior; single convolutions left out of the fit: mean error 15.2 %" in prior
    assert "NMS" in prior and "backbone.s2" in prior
    table = " ".join(jdnas("latency", "predict", "r18", "--size", "96x96", "--target", "cpu-ort", "--rows", "3").out.split())
    assert "predicted from a measured table; engines left out of the fit: mean error" in table
    assert "rows of the table" in table
    assert "has no latency table" in jdnas("latency", "predict", "r18", "--size", "96x96", "--target", "t4-trt").error


def test_measure_validate_adapt(jdnas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three commands on a machine whose times follow a formula."""

    def timed(sizes: tuple[int, ...]) -> Timing:
        ms = 0.01 + 1e-6 * sum(sizes)
        return Timing(ms, ms, 1.1 * ms, 5)

    def engine_ms(case: Case) -> Timing:
        ms = 2.0 * sum(count * timed(block.sizes).median_ms for block, count in blocks_of(*case))
        return Timing(ms, ms, ms, 5)

    class Engine:
        def __init__(self, case: Case, *_: object) -> None:
            self.case = case

        def measure(self) -> Timing:
            return engine_ms(self.case)

        def glance(self, seconds: float) -> Timing:
            return engine_ms(self.case)

    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("latency.measure.measure_block", lambda block, *_: timed(block.sizes))
    monkeypatch.setattr("latency.measure.measure_engine", lambda case, *_: engine_ms(case))
    monkeypatch.setattr("latency.sentinel.PreparedEngine", Engine)
    space = ("--base", "r18", "--preset", NANO, "--size", "64x64")
    out = jdnas("latency", "measure", *space, "--engines", "6", "--budget", "1h").out
    assert "and 6 engines in" in out
    shown = " ".join(jdnas("latency", "validate", *space, "--count", "5", "--out", "v.json").out.split())
    assert "5 engines that nothing was fitted to" in shown and "noise floor" in shown and "Kendall tau" in shown
    figures = json.loads(Path("v.json").read_text())["figures"]
    assert figures["mape"] < 0.02 and figures["within_5"] == 1.0 and Path("v.svg").read_text().startswith("<svg")
    Path("board.yaml").write_text("name: my-board\ndevice: cpu\nruntime: ort-cpu\n")
    out = jdnas("latency", "adapt", tmp_path / "tables" / "cpu-ort.json", "--target", "board.yaml", *space, "--engines", "4").out
    assert "4 engines measured here; engines left out of the fit: mean error" in out and Path("my-board.json").is_file()
    assert "table measured here" in jdnas("latency", "targets", "board.yaml").out
    few = jdnas("latency", "adapt", tmp_path / "tables" / "cpu-ort.json", *space, "--engines", "3", "--out", "few.json", "--json").out
    assert json.loads(few)["error_on_engines_left_out"] is None
