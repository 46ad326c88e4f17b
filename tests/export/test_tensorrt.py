"""What is TensorRT's alone: versions, devices, precisions and the cache, on stand-ins with the API of each version."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import export.tensorrt_api as tensorrt_api
from export.runners import open_runner
from export.tensorrt_api import capability_name, load_api
from export.tensorrt_engine import BUILT_NOT_RUN, build_engine, cache_folder, read_record
from jdnas.errors import CheckpointError, ConfigError, JdnasError, MissingExtraError, TargetError
from tests.export.runner_contract import feeds


def open_once(path, tiny):
    with open_runner(path, "tensorrt") as runner:
        return runner.run(*feeds(tiny.size_hw))


@pytest.mark.parametrize(("version", "flags"), [("8.6.1", 1 << 0), ("10.3.0", 1 << 0 | 1 << 1), ("11.0.0", 0)])
def test_networks_have_their_batch_and_types_with_every_version(tiny, install, version, flags):
    trt = install(version)
    open_once(tiny.path, tiny)
    assert trt.log.network_flags == [flags]


def with_half_weights(source, path):
    """The graph with one convolution in half: types and weights change, so that an fp16 build has both to keep."""
    model = onnx.load(source)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    for tensor in model.graph.initializer:
        if tensor.name in conv.input[1:]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    output = conv.output[0]
    index = list(model.graph.node).index(conv)
    model.graph.node.insert(index, onnx.helper.make_node("Cast", [conv.input[0]], ["halved"], to=onnx.TensorProto.FLOAT16))
    conv.input[0], conv.output[0] = "halved", "half.result"
    model.graph.node.insert(index + 2, onnx.helper.make_node("Cast", ["half.result"], [output], to=onnx.TensorProto.FLOAT))
    properties = {entry.key: entry.value for entry in model.metadata_props} | {"jdnas.precision": '"fp16"'}
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.0.0"])
def test_half_precision_comes_from_the_types_of_the_graph(tiny, install, tmp_path, version):
    trt = install(version)
    open_once(with_half_weights(tiny.path, tmp_path / "half.onnx"), tiny)
    asked = [flag.name for flag in trt.log.builder_flags]
    kept = {layer.get_output(0).dtype.name: layer.precision for layer in trt.log.layers if layer.type.name == "CONVOLUTION"}
    assert set(kept) == {"HALF", "FLOAT"}
    if version == "8.6.1":  # not strongly typed: each layer is told to keep the type that the graph gives it
        assert asked == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
        assert all(precision.name == name for name, precision in kept.items())
    else:
        assert not asked and not any(kept.values())


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0", "11.0.0"])
def test_fp32_is_not_rounded_to_tf32(tiny, install, tmp_path, version):
    trt = install(version)
    full = build_engine(tiny.path, tmp_path / "full.engine", runtime="tensorrt")
    assert [flag.name for flag in trt.log.cleared_flags] == ["TF32"] and full.flags[-1] == "no TF32"
    half = build_engine(with_half_weights(tiny.path, tmp_path / "half.onnx"), tmp_path / "half.engine", runtime="tensorrt")
    assert len(trt.log.cleared_flags) == 1 and half.flags == full.flags[:-1]


def test_int64_is_narrowed_by_8_6_and_nobody_notices(tiny, install):
    install("8.6.1")
    narrow = open_once(tiny.path, tiny)
    install("10.3.0")
    wide = open_once(tiny.path, tiny)
    assert narrow["labels"].dtype == narrow["count"].dtype == np.int64
    for name, array in wide.items():
        np.testing.assert_array_equal(narrow[name], array)


def test_the_cache_answers_for_the_same_and_for_nothing_else(tiny, install, tmp_path):
    trt = install("10.3.0")
    open_once(tiny.path, tiny)
    open_once(tiny.path, tiny)
    assert trt.log.builds == 1
    open_once(with_half_weights(tiny.path, tmp_path / "half.onnx"), tiny)  # another graph
    assert trt.log.builds == 2
    other_gpu = install("10.3.0", name="NVIDIA L40S")  # of the same compute capability
    open_once(tiny.path, tiny)
    assert other_gpu.log.builds == 1
    newer = install("10.4.0")
    open_once(tiny.path, tiny)
    assert newer.log.builds == 1
    assert len(list(cache_folder().glob("*.engine"))) == 4
    back = install("10.3.0")
    open_once(tiny.path, tiny)
    assert back.log.builds == 0


def test_a_cached_engine_that_does_not_load_is_built_anew(tiny, install):
    trt = install("10.3.0")
    wanted = open_once(tiny.path, tiny)
    (cached,) = cache_folder().glob("*.engine")
    whole = cached.read_bytes()
    cached.write_bytes(b"damaged")
    for builds in (2, 2):
        np.testing.assert_array_equal(open_once(tiny.path, tiny)["boxes"], wanted["boxes"])
        assert trt.log.builds == builds and cached.read_bytes() == whole


def test_every_part_of_the_key_counts(tiny, install, tmp_path):
    install("10.3.0")
    record = build_engine(tiny.path, tmp_path / "a.engine", runtime="tensorrt")
    changes = [
        {"runtime": "x"},
        {"version": "x"},
        {"device": "x"},
        {"capability": "x"},
        {"precision": "x"},
        {"graph": "x"},
        {"flags": ("x",)},
    ]
    assert len({replace(record, **change).key for change in changes} | {record.key}) == len(changes) + 1
    assert replace(record, build_s=9.0, status="x").key == record.key


def test_a_record_stands_beside_an_engine(tiny, install, tmp_path):
    install("10.3.0")
    made = build_engine(tiny.path, tmp_path / "a.engine", runtime="tensorrt")
    read = read_record(tmp_path / "a.engine")
    assert read == made and read.status == BUILT_NOT_RUN
    assert (read.runtime, read.version, read.device, read.capability, read.precision) == ("tensorrt", "10.3.0", "NVIDIA L4", "SM89", "fp32")
    with open_runner(tmp_path / "a.engine", "tensorrt") as runner:
        assert runner.metadata.spec == tiny.spec
        found = runner.run(*feeds(tiny.size_hw))
    np.testing.assert_array_equal(found["boxes"], open_once(tiny.path, tiny)["boxes"])


@pytest.mark.parametrize(
    ("here", "message"),
    [
        ({"version": "10.4.0"}, "was built with tensorrt 10.3.0, here is 10.4.0, and engines are bound to their version.*jdnas export"),
        ({"version": "10.3.0", "name": "NVIDIA L40S"}, "was built on NVIDIA L4, where its kernels were chosen; here is NVIDIA L40S"),
        ({"version": "10.3.0", "name": "NVIDIA T4", "capability": (7, 5)}, "is for compute capability SM89, NVIDIA T4 has SM75"),
    ],
)
def test_an_engine_from_elsewhere_is_explained(tiny, install, tmp_path, here, message):
    install("10.3.0")
    build_engine(tiny.path, tmp_path / "a.engine", runtime="tensorrt")
    install(here.pop("version"), **here)
    with pytest.raises(TargetError, match=message) as caught:
        open_runner(tmp_path / "a.engine", "tensorrt")
    assert "\n" not in str(caught.value)


def test_volta_ends_with_10_4(tiny, install):
    install("10.4.0", name="Tesla V100-SXM2-16GB", capability=(7, 0))
    assert open_once(tiny.path, tiny)["count"].shape == (2,)
    install("10.5.0", name="Tesla V100-SXM2-16GB", capability=(7, 0))
    with pytest.raises(TargetError, match=r"10.5.0 does not run on Tesla V100.*\(compute capability 7.0\): support for Volta ended "
                       r"with TensorRT 10.4; install that: pip install 'tensorrt<10.5'"):  # fmt: skip
        open_runner(tiny.path, "tensorrt")


@pytest.mark.parametrize("version", ["7.2.3", "8.5.3", "12.0.0"])
def test_versions_that_nobody_looked_at(install, version):
    install(version)
    with pytest.raises(TargetError, match=f"TensorRT {version} is not supported; 8.6 to 11 are"):
        load_api("tensorrt")


def test_a_missing_package_is_named(tiny, monkeypatch):
    def missing():
        raise ImportError

    monkeypatch.setitem(tensorrt_api._IMPORTS, "tensorrt", missing)
    with pytest.raises(MissingExtraError, match=r"'tensorrt' .*jdnas\[tensorrt\]"):
        open_runner(tiny.path, "tensorrt")


def test_what_a_builder_refuses(tiny, install, tmp_path):
    install("10.3.0", refuses=True)
    with pytest.raises(JdnasError, match="TensorRT 10.3.0 could not build an engine from"):
        build_engine(tiny.path, tmp_path / "a.engine", runtime="tensorrt")
    with pytest.raises(TargetError, match="builds for the GPU of the machine that it runs on"):
        build_engine(tiny.path, tmp_path / "a.engine", runtime="tensorrt", compute_capability="8.9")
    assert not list(tmp_path.glob("a.engine*"))


def test_images_of_any_size_are_refused(tiny, install, tmp_path):
    install("10.3.0")
    model = onnx.load(tiny.path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "free.onnx")
    with pytest.raises(ConfigError, match="takes inputs of one size"):
        build_engine(tmp_path / "free.onnx", tmp_path / "a.engine", runtime="tensorrt")


def test_a_form_that_needs_a_plugin_is_refused(tiny, install, tmp_path):
    install("10.3.0")
    model = onnx.load(tiny.path)
    model.graph.node.append(onnx.helper.make_node("RoiAlign", ["x", "y", "z"], ["pooled"]))
    onnx.save(model, tmp_path / "atlas.onnx")
    with pytest.raises(ConfigError, match="runs by a plugin only; export the weights with: jdnas export --runtime tensorrt"):
        build_engine(tmp_path / "atlas.onnx", tmp_path / "a.engine", runtime="tensorrt")


def test_records_that_are_missing_or_damaged(tiny, install, tmp_path):
    install("10.3.0")
    engine = tmp_path / "a.engine"
    build_engine(tiny.path, engine, runtime="tensorrt")
    record = tmp_path / "a.engine.json"
    values = json.loads(record.read_text())
    record.write_text(json.dumps({"runtime": "tensorrt"}))
    with pytest.raises(CheckpointError, match="a.engine.json is not the record of an engine"):
        open_runner(engine, "tensorrt")
    record.unlink()
    with pytest.raises(CheckpointError, match="lacks its record a.engine.json"):
        open_runner(engine, "tensorrt")
    record.write_text(json.dumps(values))
    engine.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot load engine .*a.engine; it is damaged or of another version"):
        open_runner(engine, "tensorrt")


@pytest.mark.parametrize(("text", "name"), [("8.9", "SM89"), ("89", "SM89"), ("SM89", "SM89"), ("sm_120", "SM120"), ("12.0", "SM120")])
def test_compute_capabilities(text, name):
    assert capability_name(text) == name


@pytest.mark.parametrize("text", ["", "x", "8.9.1", "T4"])
def test_what_is_no_compute_capability(text):
    with pytest.raises(TargetError, match="a compute capability is a number such as 8.9"):
        capability_name(text)
