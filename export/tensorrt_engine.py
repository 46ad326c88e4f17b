"""Engines of TensorRT and TensorRT-RTX: built from ONNX, kept with what they were built from, found again in a cache."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from onnx import ModelProto

from export.artifact import ArtifactInfo
from export.cuda_device import CudaDevice
from export.session import first_line, is_static
from export.tensorrt_api import TENSORRT, Api, capability_name, load_api
from export.tensors import TENSORS, kinds_of, load_graph, properties_of, text_from_kinds
from export.without_gemm import without_gemm
from jdnas.atomic import write_atomically
from jdnas.errors import CheckpointError, ConfigError, TargetError

Load = Callable[[bytes], Any]  # the runtime's engine of these bytes, None where it cannot read them
SUFFIXES = (".engine", ".plan")
BUILT_NOT_RUN, RUN_HERE = "built, not run", "run on this machine"


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """What an engine was built from and for, kept beside it as FILE.json.

    `device` is the name of the GPU, or the compute capability alone where it was built without one; `graph` the SHA-256 of the ONNX file;
    `status` says whether it ever ran; `properties` are those of the ONNX file and describe the detector.
    """

    runtime: str
    version: str
    device: str
    capability: str
    precision: str
    graph: str
    flags: tuple[str, ...] = ()
    build_s: float = 0.0
    status: str = BUILT_NOT_RUN
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A digest of all that decides whether an engine can stand for this one."""
        parts = (self.runtime, self.version, self.device, self.capability, self.precision, self.graph, *self.flags)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def save(self, engine: Path) -> None:
        """Write the record beside an engine."""
        write_atomically(record_path(engine), json.dumps(asdict(self), indent=1).encode())


def record_path(engine: Path) -> Path:
    """Return where the record of an engine is."""
    return engine.with_name(engine.name + ".json")


def read_record(engine: Path) -> EngineRecord:
    """Read the record beside an engine; a CheckpointError where it is missing or not ours."""
    path = record_path(engine)
    if not engine.is_file():
        raise CheckpointError(f"artifact {engine} does not exist; make one with: jdnas export --runtime tensorrt")
    if not path.is_file():
        raise CheckpointError(f"{engine} lacks its record {path.name}, which says what it was built from; copy it too, or export again")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return EngineRecord(**values | {"flags": tuple(values["flags"])})
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is not the record of an engine ({first_line(error)}); export the engine again") from error


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine shall run: the device's name, its compute capability (SM89), and whether it is here or only told of."""

    device: str
    capability: str
    here: bool


def place_here(api: Api, cuda: CudaDevice) -> Place:
    """Return the GPU of this machine as a place; a TargetError gives the reason where this version cannot run on it."""
    api.check_device(cuda.name, cuda.capability)
    major, minor = cuda.capability
    return Place(cuda.name, f"SM{major}{minor}", here=True)


def build_engine(onnx_path: Path, engine_path: Path, *, runtime: str, compute_capability: str | None = None) -> EngineRecord:
    """Build an engine from an exported ONNX file into `engine_path`, with its record beside it, and return the record.

    With a `compute_capability` (8.9) TensorRT-RTX builds for GPUs of that kind and needs none; otherwise the engine is for the GPU of this
    machine. MissingExtraError without the package, TargetError for a device it cannot build for, CheckpointError for a file that is
    no ONNX, JdnasError where the builder refuses the graph.
    """
    api = load_api(runtime)
    place = _place(api, compute_capability)
    model = load_graph(onnx_path, str(onnx_path))
    info = ArtifactInfo.from_properties(properties_of(model), str(onnx_path))
    data, record = _built(api, model, str(onnx_path), place, info.precision)
    write_atomically(engine_path, data)
    record.save(engine_path)
    return record


def open_cached(api: Api, model: ModelProto, where: str, place: Place, precision: str, load: Load) -> tuple[Any, EngineRecord]:
    """Return the engine of a graph for the GPU of this machine, loaded, with its record: from the cache where one was built before.

    One that `load` makes nothing of is built anew.
    """
    path = cache_folder() / f"{_record(api, model, place, precision).key}.engine"
    if path.is_file() and record_path(path).is_file() and (engine := load(path.read_bytes())) is not None:
        return engine, read_record(path)
    data, record = _built(api, model, where, place, precision)
    write_atomically(path, data)
    record.save(path)
    return load(data), record


def check_match(record: EngineRecord, api: Api, place: Place, where: str) -> None:
    """Raise a TargetError that explains why an engine cannot be loaded here: another runtime, version or device."""
    again = f"build it here from the ONNX file: jdnas export MODEL.onnx --runtime {api.runtime} --out {where}"
    if record.runtime != api.runtime:
        raise TargetError(f"engine {where} is of {record.runtime}, not of {api.runtime}; open it with --runtime {record.runtime}")
    if record.version != api.text:
        raise TargetError(
            f"engine {where} was built with {record.runtime} {record.version}, here is {api.text}, and engines are bound to their version; "
            f"install that version, or {again}"
        )
    if record.capability != place.capability:
        raise TargetError(f"engine {where} is for compute capability {record.capability}, {place.device} has {place.capability}; {again}")
    if api.runtime == TENSORRT and record.device != place.device:
        raise TargetError(f"engine {where} was built on {record.device}, where its kernels were chosen; here is {place.device}; {again}")


def cache_folder() -> Path:
    """Return where engines are kept (`$JDNAS_ENGINE_CACHE`, else in the user's cache folder)."""
    if folder := os.environ.get("JDNAS_ENGINE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jdnas" / "engines"


def _place(api: Api, compute_capability: str | None) -> Place:
    if compute_capability is None:
        return place_here(api, CudaDevice(f"building with {api.name} without --compute-capability"))
    if not api.builds_without_device:
        raise TargetError(f"{api.name} builds for the GPU of the machine that it runs on; --compute-capability is for tensorrt-rtx")
    capability = capability_name(compute_capability)
    return Place(capability, capability, here=False)


def _built(api: Api, model: ModelProto, where: str, place: Place, precision: str) -> tuple[bytes, EngineRecord]:
    _check_graph(api, model, where)
    builder = api.trt.Builder(api.trt.Logger(api.trt.Logger.ERROR))
    network = api.network(builder)
    lacks = api.lacks_gemm(place.capability)
    api.parsed(network, (without_gemm(model) if lacks else model).SerializeToString(), where)
    config = api.config(builder, network, precision)
    if not place.here:
        api.aim(config, place.capability)
    start = perf_counter()
    data = api.built(builder, network, config, where)
    return data, replace(_record(api, model, place, precision), build_s=round(perf_counter() - start, 3))


def _record(api: Api, model: ModelProto, place: Place, precision: str) -> EngineRecord:
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    properties = {**properties_of(model), TENSORS: text_from_kinds(*kinds_of(model))}
    flags = api.flags(precision)
    return EngineRecord(api.runtime, api.text, place.device, place.capability, precision, digest, flags, properties=properties)


def _check_graph(api: Api, model: ModelProto, where: str) -> None:
    if not is_static(kinds_of(model)[0]):
        raise ConfigError(f"{api.name} takes inputs of one size, {where} takes images of any; export it with another --input")
    if any(node.op_type == "RoiAlign" for node in model.graph.node):
        raise ConfigError(f"{where} has the head's form for another runtime, which {api.name} runs by a plugin only; export the weights "
                          f"with: jdnas export --runtime {api.runtime}")  # fmt: skip
