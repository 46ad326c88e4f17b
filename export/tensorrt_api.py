"""Everything that differs between the versions of TensorRT (8.6 to 11) and TensorRT-RTX, in one place.

| | 8.6 | 9, 10 | 11 | TensorRT-RTX |
|---|---|---|---|---|
| batch in the graph | a flag | a flag without effect | always | always |
| precision | builder flags and a wish per layer | the graph's types (a flag) | the graph's types | the graph's types |
| INT64 tensors | narrowed to INT32 | INT64 (10) | INT64 | INT64 |
| Volta (compute capability 7.0, 7.2) | yes | up to 10.4 | no | no |
| building needs the GPU | yes | yes | yes | no, it is told the compute capability |
| TF32 in fp32 | turned off | turned off | turned off | turned off |
| matrix products in fp32 | yes | yes | yes | not for Turing (7.5) |
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jdnas.errors import CheckpointError, JdnasError, MissingExtraError, TargetError, unknown_name

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt-rtx"
OLDEST, NEWEST_MAJOR = (8, 6), 11
VOLTA_ENDED = (10, 5)
_PACKAGES = {TENSORRT: ("tensorrt", "tensorrt"), TENSORRT_RTX: ("tensorrt-rtx-cu13", "tensorrt-rtx")}
_RUNS_ON_RTX = ((7, 5), (8, 6), (8, 7), (8, 9), (12, 0), (12, 1))
_NUMPY_TYPES: dict[str, type[np.generic]] = {
    "FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32, "INT8": np.int8, "UINT8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def _import_tensorrt() -> Any:
    import tensorrt

    return tensorrt


def _import_tensorrt_rtx() -> Any:
    import tensorrt_rtx

    return tensorrt_rtx


_IMPORTS: dict[str, Callable[[], Any]] = {TENSORRT: _import_tensorrt, TENSORRT_RTX: _import_tensorrt_rtx}


@dataclass(frozen=True, slots=True)
class Api:
    """One installed TensorRT: its module, the runtime that it is, and its version as text and as numbers."""

    trt: Any
    runtime: str
    text: str
    version: tuple[int, ...]

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{'TensorRT-RTX' if self.runtime == TENSORRT_RTX else 'TensorRT'} {self.text}"

    @property
    def strongly_typed(self) -> bool:
        """Whether the graph's types are the precisions that it runs in."""
        flags = self.trt.NetworkDefinitionCreationFlag.__members__
        return "STRONGLY_TYPED" in flags or self.version >= (NEWEST_MAJOR,)

    @property
    def builds_without_device(self) -> bool:
        """Whether it builds engines for a compute capability that it is told."""
        return self.runtime == TENSORRT_RTX

    def lacks_gemm(self, capability: str) -> bool:
        """Whether the builder has no matrix products in float32 for a compute capability (seen with TensorRT-RTX 1.7 for Turing)."""
        return self.runtime == TENSORRT_RTX and capability == "SM75"

    def network(self, builder: Any) -> Any:
        """Return an empty network with the batch in its shapes, strongly typed where there is such a thing."""
        flags = self.trt.NetworkDefinitionCreationFlag.__members__
        wanted = [name for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if name in flags]
        return builder.create_network(sum(1 << int(flags[name]) for name in wanted))

    def config(self, builder: Any, network: Any, precision: str) -> Any:
        """Return the builder's configuration: fp32 without TF32, and where networks are not strongly typed, layers of the graph's types."""
        config = builder.create_builder_config()
        if self._clears_tf32(precision):
            config.clear_flag(self.trt.BuilderFlag.__members__["TF32"])
        if not self.strongly_typed and precision != "fp32":
            flags = self.trt.BuilderFlag.__members__
            config.set_flag(flags["FP16"])
            if precision == "int8":
                config.set_flag(flags["INT8"])
            config.set_flag(flags["OBEY_PRECISION_CONSTRAINTS"])
            self._keep_types(network)
        return config

    def flags(self, precision: str) -> tuple[str, ...]:
        """Return what `network` and `config` set, in words; engines that were built otherwise cannot stand for one of this precision."""
        types = "strongly typed" if self.strongly_typed else "types kept per layer"
        return (types, "no TF32") if self._clears_tf32(precision) else (types,)

    def _clears_tf32(self, precision: str) -> bool:
        # TF32, the builder's default, rounds what is called fp32 to ten bits.
        return precision == "fp32" and "TF32" in self.trt.BuilderFlag.__members__

    def _keep_types(self, network: Any) -> None:
        floats = (self.trt.DataType.FLOAT, self.trt.DataType.HALF)
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            kinds = {layer.get_output(at).dtype for at in range(layer.num_outputs)}
            if len(kinds) == 1 and (kind := kinds.pop()) in floats and layer.type not in (
                self.trt.LayerType.CONSTANT, self.trt.LayerType.SHAPE,
            ):  # fmt: skip
                layer.precision = kind

    def parsed(self, network: Any, graph: bytes, where: str) -> None:
        """Fill a network from ONNX; a CheckpointError with the parser's own words."""
        parser = self.trt.OnnxParser(network, self.trt.Logger(self.trt.Logger.ERROR))
        if not parser.parse(graph):
            errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
            raise CheckpointError(f"{self.name} cannot parse {where}: {' '.join(errors.split())[:500]}")

    def aim(self, config: Any, capability: str) -> None:
        """Tell the builder which compute capability, such as SM89, to build for."""
        known = self.capabilities()
        if capability not in known:
            raise TargetError(unknown_name("compute capability", capability, known))
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(self.trt.ComputeCapability.__members__[capability], 0):
            raise TargetError(f"{self.name} does not build for {capability}")

    def capabilities(self) -> tuple[str, ...]:
        """Return the compute capabilities that engines can be built for without a device."""
        return tuple(name for name in self.trt.ComputeCapability.__members__ if name.startswith("SM"))

    def numpy_type(self, dtype: Any) -> type[np.generic]:
        """Return NumPy's type of a tensor (the bindings' own table of 8.6 needs a NumPy before 1.24)."""
        return _NUMPY_TYPES[dtype.name]

    def check_device(self, device: str, capability: tuple[int, int]) -> None:
        """Raise a TargetError that gives the reason where this version cannot run on a device."""
        shown = f"{device} (compute capability {capability[0]}.{capability[1]})"
        if self.runtime == TENSORRT_RTX:
            if capability not in _RUNS_ON_RTX:
                runs_on = ", ".join(f"{major}.{minor}" for major, minor in _RUNS_ON_RTX)
                raise TargetError(f"{self.name} runs on compute capability {runs_on}, not on {shown}; use runtime 'tensorrt'")
        elif capability in ((7, 0), (7, 2)) and self.version >= VOLTA_ENDED:
            raise TargetError(
                f"{self.name} does not run on {shown}: support for Volta ended with TensorRT 10.4; "
                "install that: pip install 'tensorrt<10.5'"
            )

    def built(self, builder: Any, network: Any, config: Any, where: str) -> bytes:
        """Build and return the engine; a JdnasError where the builder refuses the graph."""
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise JdnasError(f"{self.name} could not build an engine from {where}; its own messages above say why")
        return bytes(engine)


def load_api(runtime: str) -> Api:
    """Return the installed TensorRT or TensorRT-RTX; MissingExtraError without it, TargetError for a version that is not supported."""
    package, extra = _PACKAGES[runtime]
    try:
        trt = _IMPORTS[runtime]()
    except ImportError as error:
        raise MissingExtraError(package, extra) from error
    text = str(trt.__version__)
    version = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    if runtime == TENSORRT and not (version >= OLDEST and version[0] <= NEWEST_MAJOR):
        raise TargetError(f"TensorRT {text} is not supported; 8.6 to {NEWEST_MAJOR} are: pip install 'tensorrt>=8.6,<{NEWEST_MAJOR + 1}'")
    return Api(trt, runtime, text, version)


def capability_name(text: str) -> str:
    """Return a compute capability as TensorRT names it: 8.9, 89 and SM89 are SM89; a TargetError for other text."""
    if not (found := re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.strip().lower())):
        raise TargetError(f"a compute capability is a number such as 8.9, got {text!r}; NVIDIA lists them by GPU")
    return f"SM{found[1]}{found[2]}"
