"""Timing engines on the node of a Ray cluster that has the target's device: the one with the resource `target:NAME`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from jdnas.errors import TargetError
from jdnas.search.executors.on_ray import RETRIES
from latency.benchmark import benchmark
from latency.targets import Target


def resource_name(target: Target) -> str:
    """Return the resource that a node with the target's device is started with."""
    return f"target:{target.name}"


def has_node(ray: Any, target: Target) -> bool:
    """Tell whether a node of the cluster is one of the target's."""
    return any(node["Alive"] and node["Resources"].get(resource_name(target), 0.0) >= 1 for node in ray.nodes())


def benchmark_on_node(ray: Any, target: Target, paths: Sequence[Path], seconds: float) -> dict[str, Any]:
    """Time exported files there, one measurement at a time on each node; return the report as JSON data, its rows in order of `paths`."""
    task = ray.remote(_benchmark).options(
        num_cpus=0, resources={resource_name(target): 1}, max_retries=RETRIES, name=f"jdnas benchmark {target.name}"
    )
    try:
        report: dict[str, Any] = ray.get(task.remote(target.model_dump(mode="json"), [path.read_bytes() for path in paths], seconds))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise TargetError(f"the node with {resource_name(target)} was lost while it timed engines; start it again and resume") from error
    rows = [row | {"artifact": str(path)} for row, path in zip(report["rows"], paths, strict=True)]
    return report | {"rows": rows}


def _benchmark(target: dict[str, Any], engines: list[bytes], seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "target.yaml"
        where.write_text(yaml.safe_dump(target))
        paths = [Path(folder) / f"{index}.onnx" for index in range(len(engines))]
        for path, data in zip(paths, engines, strict=True):
            path.write_bytes(data)
        return benchmark(paths, where, seconds=seconds).to_dict()
