"""Stand-ins with the Python API of TensorRT 8.6, 10 and 11; engines hold the ONNX graph, which ONNX Runtime runs on the host.

What a version lacks, its stand-in lacks too: 8.6 has no strongly typed networks and no INT64, 11 has no precision flags.
"""

import ctypes
import enum
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


class Layer:
    def __init__(self, kind, outputs):
        self.type, self._outputs, self.precision = kind, outputs, None
        self.num_outputs = len(outputs)

    def get_output(self, index):
        return self._outputs[index]


def fake_tensorrt(version, *, refuses=False):
    """Return a module object; `log` in it tells what was asked of it, `refuses` makes its builder return nothing."""
    major, minor = (int(part) for part in version.split(".")[:2])
    old, newest = major < 9, major >= 11
    dtype = enum.Enum("DataType", ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", *([] if old else ["INT64"])])
    flags = enum.IntEnum(
        "NetworkDefinitionCreationFlag",
        {"PREFER_JIT": 2} if newest else {"EXPLICIT_BATCH": 0, **({} if old else {"STRONGLY_TYPED": 1})},
    )
    builder_flags = enum.Enum("BuilderFlag", ["TF32"] if newest else ["TF32", "FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"])
    layer_type = enum.Enum("LayerType", ["CONSTANT", "SHAPE", "CONVOLUTION"])
    log = SimpleNamespace(builds=0, network_flags=[], builder_flags=[], cleared_flags=[], layers=[], streams=[])

    def engine_type(array_type):
        return dtype["INT32" if old and array_type is np.int64 else NAMES[array_type]]

    class Builder:
        def __init__(self, logger):
            pass

        def create_network(self, wanted=0):
            log.network_flags.append(wanted)
            return SimpleNamespace(graph=None, num_layers=0)

        def create_builder_config(self):
            return SimpleNamespace(set_flag=log.builder_flags.append, clear_flag=log.cleared_flags.append)

        def build_serialized_network(self, network, config):
            log.builds += 1
            log.layers = network.layers
            return None if refuses else memoryview(f"{version}\n".encode() + network.graph)

    class OnnxParser:
        num_errors = 1

        def __init__(self, network, logger):
            self.network = network

        def parse(self, data):
            try:
                model = onnx.load_from_string(data)
            except Exception:
                return False
            self.network.graph = data
            types = {t.name: t.data_type for t in model.graph.initializer}
            layers = [
                Layer(layer_type.CONSTANT if node.op_type == "Constant" else layer_type.CONVOLUTION, [
                    SimpleNamespace(dtype=dtype.HALF if types.get(node.input[1]) == onnx.TensorProto.FLOAT16 else dtype.FLOAT)
                ]) for node in model.graph.node if node.op_type in ("Conv", "Constant")
            ]  # fmt: skip
            self.network.layers, self.network.num_layers, self.network.get_layer = layers, len(layers), layers.__getitem__
            return True

        def get_error(self, index):
            return "In node 0: not a graph"

    class Context:
        def __init__(self, engine):
            self.engine, self.addresses = engine, {}

        def set_tensor_address(self, name, address):
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream):
            log.streams.append(stream)
            given = {v.name: self._at(v).astype(self.engine.kinds[v.name][1]) for v in self.engine.session.get_inputs()}
            for value, array in zip(self.engine.session.get_outputs(), self.engine.session.run(None, given), strict=True):
                self._at(value)[...] = array
            return True

        def _at(self, value):
            shape, array_type = self.engine.kinds[value.name]
            array_type = np.dtype(np.int32 if old and array_type is np.int64 else array_type)
            raw = (ctypes.c_char * (int(np.prod(shape)) * array_type.itemsize)).from_address(self.addresses[value.name])
            return np.frombuffer(raw, array_type).reshape(shape)

    class Engine:
        def __init__(self, graph):
            self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
            types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
            values = (*self.session.get_inputs(), *self.session.get_outputs())
            self.kinds = {value.name: (tuple(value.shape), types[value.type]) for value in values}

        def get_tensor_shape(self, name):
            return list(self.kinds[name][0])

        def get_tensor_dtype(self, name):
            return engine_type(self.kinds[name][1])

        def create_execution_context(self):
            return Context(self)

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, data):
            head, _, graph = bytes(data).partition(b"\n")
            return Engine(graph) if head.decode() == version else None

    class Logger:
        ERROR = 1

        def __init__(self, level):
            pass

    return SimpleNamespace(
        __version__=version, NetworkDefinitionCreationFlag=flags, BuilderFlag=builder_flags, DataType=dtype, LayerType=layer_type,
        Builder=Builder, OnnxParser=OnnxParser, Runtime=Runtime, Logger=Logger, log=log,
    )  # fmt: skip
