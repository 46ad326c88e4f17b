"""The model repository, read with Triton's own schema."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from export.artifact import ArtifactInfo
from export.ort_session import OrtSession
from export.triton import config_text, write_triton_repository
from jdnas.errors import CheckpointError, ConfigError
from tests.export.conftest import CLASSES, TinyEngine

text_format = pytest.importorskip("google.protobuf.text_format")


def _schema() -> ModuleType:
    """The generated module of model_config.proto alone: the package around it needs grpcio."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        pytest.skip("tritonclient is not installed")
    spec = importlib.util.spec_from_file_location(
        "model_config_pb2", Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), _schema().ModelConfig())


def test_the_configuration_agrees_with_the_model(tiny: TinyEngine, tmp_path: Path) -> None:
    folder = write_triton_repository(tiny.path, tmp_path / "repository")
    assert folder == tmp_path / "repository" / "tiny"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == ["1/model.onnx", "config.pbtxt"]
    config, session = _read(folder), OrtSession(folder / "1" / "model.onnx", threads=1)
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 0)
    types = {11: np.float32, 9: np.int64}  # TYPE_FP32 and TYPE_INT64 of model_config.proto
    for listed, actual in ((config.input, session.inputs), (config.output, session.outputs)):
        assert {one.name: (tuple(one.dims), types[one.data_type]) for one in listed} == actual
    values = {key: value.string_value for key, value in config.parameters.items()}
    assert json.loads(values["classes"]) == list(CLASSES) and json.loads(values["size_hw"]) == list(tiny.size_hw)
    assert json.loads(values["mean"]) == list(tiny.spec.traits.mean) and values["precision"] == "fp32"
    assert onnxruntime.InferenceSession(tiny.path.read_bytes()).get_modelmeta().custom_metadata_map == session.properties


def test_whole_images_have_free_sides(tiny: TinyEngine, tmp_path: Path) -> None:
    info = ArtifactInfo(tiny.spec, tiny.classes, tiny.size_hw, 1, "fp32", {}, input="image")
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, (1, "height", "width", 3))]
    config = text_format.Parse(config_text("any", info, inputs, []), _schema().ModelConfig())
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [("images", 2, [1, -1, -1, 3])]  # 2: TYPE_UINT8
    assert config.parameters["input"].string_value == "image"


def test_class_names_of_any_text_survive(tiny: TinyEngine, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(tiny.path)
    names = ['a "b"', "back\\slash\nline", "Größe 猫"]
    properties = {entry.key: entry.value for entry in model.metadata_props} | {"jdnas.classes": json.dumps(names)}
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, tmp_path / "odd.onnx")
    config = _read(write_triton_repository(tmp_path / "odd.onnx", tmp_path / "repository", "named"))
    assert config.name == "named" and json.loads(config.parameters["classes"].string_value) == names


def test_what_cannot_go_into_a_repository(tiny: TinyEngine, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"no model")
    for path in (tmp_path / "missing.onnx", other):
        with pytest.raises(CheckpointError, match="jdnas export"):
            write_triton_repository(path, tmp_path / "repository")
    for name in ("../up", "", ".hidden", "a b"):
        with pytest.raises(ConfigError, match="Triton"):
            write_triton_repository(tiny.path, tmp_path / "repository", name)
    assert not (tmp_path / "repository").exists()
