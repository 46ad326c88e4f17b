"""Stand-ins with the Python API of TensorRT 8.6, 10 and 11; engines hold the ONNX graph, which ONNX Runtime runs on the host.

What a version lacks, its stand-in lacks too: 8.6 has no strongly typed networks and no INT64, 11 has no precision flags.
"""

import ctypes
import enum
from functools import partial
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime

NAMES = {
    np.float32: "FLOAT",
    np.float16: "HALF",
    np.int64: "INT64",
    np.int32: "INT32",
    np.int8: "INT8",
    np.uint8: "UINT8",
    np.bool_: "BOOL",
}


class Version:
    """What differs between versions; `log` tells what was asked of one, `refuses` makes its builder return nothing."""

    def __init__(self, text, refuses):
        self.text, self.refuses = text, refuses
        major = int(text.split(".")[0])
        self.old, newest = major < 9, major >= 11
        self.dtype = enum.Enum("DataType", ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", *([] if self.old else ["INT64"])])
        self.network_flags = enum.IntEnum(
            "NetworkDefinitionCreationFlag",
            {"PREFER_JIT": 2} if newest else {"EXPLICIT_BATCH": 0, **({} if self.old else {"STRONGLY_TYPED": 1})},
        )
        self.builder_flags = enum.Enum("BuilderFlag", ["TF32"] if newest else ["TF32", "FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"])
        self.layer_type = enum.Enum("LayerType", ["CONSTANT", "SHAPE", "CONVOLUTION"])
        self.log = SimpleNamespace(builds=0, network_flags=[], builder_flags=[], cleared_flags=[], layers=[], streams=[])

    def array_type(self, graph_type):
        """Return the type that an engine's buffers have for one of the graph's."""
        return np.int32 if self.old and graph_type is np.int64 else graph_type


class Logger:
    ERROR = 1

    def __init__(self, level):
        pass


class Builder:
    def __init__(self, version, logger):
        self._version = version

    def create_network(self, wanted=0):
        self._version.log.network_flags.append(wanted)
        return SimpleNamespace(graph=None, num_layers=0)

    def create_builder_config(self):
        log = self._version.log
        return SimpleNamespace(set_flag=log.builder_flags.append, clear_flag=log.cleared_flags.append)

    def build_serialized_network(self, network, config):
        self._version.log.builds += 1
        self._version.log.layers = network.layers
        return None if self._version.refuses else memoryview(f"{self._version.text}\n".encode() + network.graph)


class Layer:
    def __init__(self, kind, outputs):
        self.type, self._outputs, self.precision = kind, outputs, None
        self.num_outputs = len(outputs)

    def get_output(self, index):
        return self._outputs[index]


class OnnxParser:
    num_errors = 1

    def __init__(self, version, network, logger):
        self._version, self._network = version, network

    def parse(self, data):
        try:
            model = onnx.load_from_string(data)
        except Exception:
            return False
        layers, network = self._layers(model.graph), self._network
        network.graph, network.layers, network.num_layers, network.get_layer = data, layers, len(layers), layers.__getitem__
        return True

    def get_error(self, index):
        return "In node 0: not a graph"

    def _layers(self, graph):
        types, dtype, kinds = {t.name: t.data_type for t in graph.initializer}, self._version.dtype, self._version.layer_type
        return [
            Layer(kinds.CONSTANT if node.op_type == "Constant" else kinds.CONVOLUTION, [
                SimpleNamespace(dtype=dtype.HALF if types.get(node.input[1]) == onnx.TensorProto.FLOAT16 else dtype.FLOAT)
            ]) for node in graph.node if node.op_type in ("Conv", "Constant")
        ]  # fmt: skip


class Engine:
    def __init__(self, version, graph):
        self.version = version
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        values = (*self.session.get_inputs(), *self.session.get_outputs())
        self.kinds = {value.name: (tuple(value.shape), types[value.type]) for value in values}

    def get_tensor_shape(self, name):
        return list(self.kinds[name][0])

    def get_tensor_dtype(self, name):
        return self.version.dtype[NAMES[self.version.array_type(self.kinds[name][1])]]

    def create_execution_context(self):
        return Context(self)


class Context:
    def __init__(self, engine):
        self._engine, self._addresses = engine, {}

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        session = self._engine.session
        self._engine.version.log.streams.append(stream)
        given = {value.name: self._at(value).astype(self._engine.kinds[value.name][1]) for value in session.get_inputs()}
        for value, array in zip(session.get_outputs(), session.run(None, given), strict=True):
            self._at(value)[...] = array
        return True

    def _at(self, value):
        shape, graph_type = self._engine.kinds[value.name]
        array_type = np.dtype(self._engine.version.array_type(graph_type))
        raw = (ctypes.c_char * (int(np.prod(shape)) * array_type.itemsize)).from_address(self._addresses[value.name])
        return np.frombuffer(raw, array_type).reshape(shape)


class Runtime:
    def __init__(self, version, logger):
        self._version = version

    def deserialize_cuda_engine(self, data):
        head, _, graph = bytes(data).partition(b"\n")
        return Engine(self._version, graph) if head.decode() == self._version.text else None


def fake_tensorrt(version, *, refuses=False):
    """Return a module object of a version, such as "10.4"."""
    own = Version(version, refuses)
    return SimpleNamespace(
        __version__=version, NetworkDefinitionCreationFlag=own.network_flags, BuilderFlag=own.builder_flags, DataType=own.dtype,
        LayerType=own.layer_type, Builder=partial(Builder, own), OnnxParser=partial(OnnxParser, own), Runtime=partial(Runtime, own),
        Logger=Logger, log=own.log,
    )  # fmt: skip
