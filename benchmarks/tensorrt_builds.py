"""Every kind of detector as engines of TensorRT-RTX, for GPUs that this machine need not have: `make test-tensorrt`.

    python benchmarks/tensorrt_builds.py
    python benchmarks/tensorrt_builds.py --detector r18 --precision fp16 --capability 8.9

Detectors have random weights and all their widths and depths; the canvas is small, since what the builder accepts does not depend on it.
`student` is R50 after up to eight random actions of the search. Each graph is exported once per precision and built for all compute
capabilities; it ends with 1 where one of them is not built. Nothing is run: the record says what was built, how large it is and how
long it took.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from provenance import ROOT, provenance

from export.forms import forms_for
from export.graph import export_onnx
from export.tensorrt_engine import build_engine
from jdnas.errors import JdnasError
from jdnas.models.detector import build
from jdnas.pipeline.students import random_students
from jdnas.presets import preset
from jdnas.sizes import SizeHW, size_hw_from_text
from jdnas.spec import DetectorSpec
from jdnas.student.actions import ActionRules

RUNTIME = "tensorrt-rtx"
CLASSES = tuple(f"class {label}" for label in range(1, 21))
BASES = {"r18": "r18", "r50": "r50", "r101": "r101", "x101": "x101_32x4d", "lite0": "lite0", "cascade": "r50-cascade"}
DETECTORS = (*BASES, "student")
CAPABILITIES = ("7.5", "8.6", "8.9", "12.0")


def spec_of(name: str) -> DetectorSpec:
    """Return a detector by its name in the record."""
    if name != "student":
        return preset(BASES[name], len(CLASSES))
    return random_students(preset("r50", len(CLASSES)), ActionRules(), 1, seed=0)[0]


def built(graph: Path, capability: str, folder: Path) -> dict[str, Any]:
    """Build one engine and say what came out."""
    engine = folder / f"{graph.stem}_{capability}.engine"
    try:
        record = build_engine(graph, engine, runtime=RUNTIME, compute_capability=capability)
    except JdnasError as error:
        return {"error": str(error)}
    size = engine.stat().st_size
    engine.unlink()
    return {"build_s": record.build_s, "engine_mib": round(size / 2**20, 2), "version": record.version, "status": record.status}


def run(
    names: list[str], precisions: list[str], capabilities: list[str], size_hw: SizeHW, rows: list[dict[str, Any]], save: Any
) -> list[dict[str, Any]]:
    """Export and build all that `rows` lack; `save` gets the rows after each graph."""
    done = {
        (row["detector"], row["precision"]) for row in rows
        if set(capabilities) <= row["engines"].keys() and not any("error" in engine for engine in row["engines"].values())
    }  # fmt: skip
    rows = [row for row in rows if (row["detector"], row["precision"]) in done]
    for name in names:
        if all((name, precision) in done for precision in precisions):
            continue
        spec = spec_of(name)
        torch.manual_seed(0)
        state = build(spec).state_dict()
        for precision in precisions:
            if (name, precision) in done:
                continue
            with tempfile.TemporaryDirectory() as temporary:
                folder, started = Path(temporary), time.perf_counter()
                graph = export_onnx(
                    state, spec, size_hw=size_hw, path=folder / f"{name}_{precision}.onnx", classes=CLASSES, precision=precision,
                    forms=forms_for(RUNTIME),
                )  # fmt: skip
                row = {"detector": name, "spec": spec.key, "precision": precision, "export_s": round(time.perf_counter() - started, 1)}
                rows.append(row | {"engines": {capability: built(graph, capability, folder) for capability in capabilities}})
            engines = rows[-1]["engines"].values()
            count = sum("error" not in engine for engine in engines)
            print(f"{name} {precision}: {count} of {len(engines)} built, {sum(e.get('build_s', 0) for e in engines):.1f} s", flush=True)
            for capability, engine in rows[-1]["engines"].items():
                if "error" in engine:
                    print(f"  {capability}: {engine['error']}", flush=True)
            save(rows)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", action="append", choices=DETECTORS, help="default: all")
    parser.add_argument("--precision", action="append", choices=("fp32", "fp16"), help="default: both")
    parser.add_argument("--capability", action="append", help=f"default: {', '.join(CAPABILITIES)}")
    parser.add_argument("--size", default="128x128", help="canvas as WIDTHxHEIGHT")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "tensorrt_builds.json")
    parser.add_argument("--resume", action="store_true", help="keep what the record has and build the rest")
    options = parser.parse_args()
    facts = provenance() | {"load_average_before": [round(value, 2) for value in psutil.getloadavg()]}
    options.output.parent.mkdir(parents=True, exist_ok=True)

    record = json.loads(options.output.read_text()) if options.output.is_file() and options.resume else {"rows": [], "size": options.size}
    if record["size"] != options.size:
        parser.error(f"{options.output} has engines of {record['size']}; resume it with that --size, or give another --output")
    kept = record["rows"]

    def save(rows: list[dict[str, Any]]) -> None:
        head = {"provenance": facts, "runtime": RUNTIME, "size": options.size}
        options.output.write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")

    rows = run(
        options.detector or list(DETECTORS), options.precision or ["fp32", "fp16"], options.capability or list(CAPABILITIES),
        size_hw_from_text(options.size), kept, save,
    )  # fmt: skip
    failed = sum("error" in engine for row in rows for engine in row["engines"].values())
    print(f"{sum(len(row['engines']) for row in rows) - failed} engines built, {failed} not; none was run; {options.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
