"""RoIAlign alone, in the forms that exports may have, on the runtimes of this machine: calls of all interleaved.

    python benchmarks/roi_forms.py --size 800x1344 --boxes 1000

The pyramid has 256 channels; boxes are of all sizes. Ratios are of the medians and above 1 where a form is faster than `gather`.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from provenance import ROOT, publish
from torch import Tensor, nn

from export.graph import OPSET, quiet
from export.runtimes import open_session
from jdnas.models.roi_align import STRIDES, RoiForm, pool_rois

FORMS: tuple[RoiForm, ...] = ("gather", "atlas")
CHANNELS = 256


class _Pool(nn.Module):
    def __init__(self, form: RoiForm) -> None:
        super().__init__()
        self.form = form

    def forward(self, boxes: Tensor, *maps: Tensor) -> Tensor:
        return pool_rois(maps, boxes, self.form)


def graph_of(form: RoiForm, inputs: dict[str, Tensor], path: Path) -> Path:
    """Export one form."""
    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(_Pool(form), tuple(inputs.values()), strict=False)
        made = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=list(inputs), output_names=["pooled"], verbose=False
        )
    assert made is not None
    path.write_bytes(made.model_proto.SerializeToString())
    return path


def random_inputs(size: str, count: int) -> dict[str, Tensor]:
    """Return maps and boxes for a canvas HEIGHTxWIDTH."""
    height, width = (int(side) for side in size.split("x"))
    noise = torch.Generator().manual_seed(0)
    maps = {f"p{stride}": torch.randn(1, CHANNELS, height // stride, width // stride, generator=noise) for stride in STRIDES}
    sides = torch.exp(torch.randn(count, 2, generator=noise) * 0.8 + 4.6)
    corner = torch.rand(count, 2, generator=noise) * torch.tensor([width, height])
    boxes = torch.minimum(torch.cat((corner, corner + sides), 1), torch.tensor([width, height] * 2).float())[None]
    return {"boxes": boxes, **maps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="800x1344", help="HEIGHTxWIDTH")
    parser.add_argument("--boxes", type=int, default=1000)
    parser.add_argument("--runtime", action="append", help="default: ort-cpu, openvino")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--calls", type=int, default=9)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "roi_forms.json")
    options = parser.parse_args()
    inputs = random_inputs(options.size, options.boxes)
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    taken: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {form: graph_of(form, inputs, Path(folder) / f"{form}.onnx") for form in FORMS}
        runtimes = options.runtime or ["ort-cpu", "openvino"]
        sessions = {(name, form): open_session(paths[form], name, threads=options.threads) for name in runtimes for form in FORMS}
        results = {key: session.run(feeds)["pooled"] for key, session in sessions.items()}
        calls = {key: session.bind(feeds) for key, session in sessions.items()}
        for index in range(options.calls + 1):
            for key in (list(calls), list(calls)[::-1])[index % 2]:
                started = time.perf_counter()
                calls[key]()
                if index:
                    taken.setdefault(key, []).append(1e3 * (time.perf_counter() - started))
    first = next(iter(results.values()))
    rows: list[dict[str, Any]] = []
    for (name, form), own in taken.items():
        peer = taken[name, FORMS[0]]
        row = {"runtime": name, "form": form, "median_ms": median(own), "least_ms": min(own), "ratio": median(peer) / median(own)}
        difference = float(np.abs(results[name, form] - first).max())
        rows.append(row | {"ratio_of_least": min(peer) / min(own), "largest_difference": difference, "ms": [round(ms, 2) for ms in own]})
        print(f"{name} {form}: {median(own):.1f} ms (least {min(own):.1f}), {row['ratio']:.2f}x gather, difference {difference:.1g}")
    publish(options.output, {"size": options.size, "boxes": options.boxes, "rows": rows}, threads_of_all=options.threads)


if __name__ == "__main__":
    main()
