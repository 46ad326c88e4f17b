"""Graphs that take bytes or whole images: what they normalize, scale and give back, against PyTorch's preprocessing."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.artifact import ArtifactInfo, InputForm
from export.feeding import from_normalized, noise, prepare
from export.graph import verify, write_artifact
from export.input_forms import with_input_form
from export.ort_session import OrtSession
from export.parity import compare
from export.runners import open_runner, predictor
from jdnas.data.augment import letterbox
from jdnas.data.batches import eval_batches
from jdnas.data.canvas import boxes_in_image, place_on_canvas
from jdnas.data.coco import load_split
from jdnas.data.shapes import make_shapes
from jdnas.errors import InputError
from jdnas.spec import DetectorSpec
from tests.export.conftest import TinyEngine

CANVAS_HW = (64, 96)
BOXES = np.array([[[3.0, 5.0, 40.0, 60.0], [0.0, 0.0, 0.0, 0.0], [-4.0, 10.0, 500.0, 20.0]]], np.float32)


def _info(spec: DetectorSpec, form: InputForm, batch: int = 1) -> ArtifactInfo:
    return ArtifactInfo(spec, ("a", "b", "c"), CANVAS_HW, batch, "fp32", {}, input=form)


def _probe(batch: int = 1) -> ModelProto:
    """A graph of normalized canvases that gives back what it gets, and the same boxes always."""
    shape = (batch, 3, *CANVAS_HW)
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("sizes_hw", TensorProto.INT64, (batch, 2)),
    ]
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, BOXES.shape),
        helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("seen", TensorProto.INT64, (batch, 2)),
    ]
    nodes = [
        helper.make_node("Identity", ["constant"], ["boxes"]),
        helper.make_node("Identity", ["images"], ["pixels"]),
        helper.make_node("Identity", ["sizes_hw"], ["seen"]),
    ]
    graph = helper.make_graph(nodes, "probe", inputs, outputs, [numpy_helper.from_array(BOXES, "constant")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _session(info: ArtifactInfo) -> OrtSession:
    model = with_input_form(_probe(info.batch), info)
    verify(model)
    return OrtSession(model.SerializeToString(), threads=1)


@pytest.mark.parametrize("form", ["uint8", "uint8-nhwc"])
def test_bytes_become_exactly_what_pytorch_is_fed(tiny: TinyEngine, tmp_path: Path, form: InputForm) -> None:
    make_shapes(tmp_path / "shapes", train=1, val=2, size=80, seed=3)
    data, traits, info = load_split(tmp_path / "shapes", "val"), tiny.spec.traits, _info(tiny.spec, form, 2)
    (batch,) = eval_batches(data, size_hw=CANVAS_HW, batch=2, mean=traits.mean, std=traits.std)
    given, sizes = batch.images.numpy(), batch.sizes_hw.numpy()
    raw = from_normalized(info, given, sizes)
    assert raw.dtype == np.uint8 and raw.shape == ((2, 3, *CANVAS_HW) if form == "uint8" else (2, *CANVAS_HW, 3))
    raw = raw.copy()
    raw[..., -1:, :, :] = 200 if form == "uint8-nhwc" else raw[..., -1:, :, :]  # what lies outside the images does not matter
    got = _session(info).run({"images": raw, "sizes_hw": sizes})["pixels"]
    inside = np.zeros(given.shape, bool)
    for row, (height, width) in enumerate(sizes):
        inside[row, :, :height, :width] = True
    last = np.arange(CANVAS_HW[0])[:, None] < (CANVAS_HW[0] - 1 if form == "uint8-nhwc" else CANVAS_HW[0])
    np.testing.assert_array_equal(got[inside & last], given[inside & last])
    assert not got[~inside].any()


def _smooth(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 7.0 + k) + np.cos(y / (5.0 + k)) for k in range(3)]
    return np.stack([((wave + 2) * 63).astype(np.uint8) for wave in waves], -1)


@pytest.mark.parametrize(
    "image_hw", [(64, 96), (480, 640), (333, 500), (500, 333), (61, 97), (37, 41), (20, 300), (128, 192), (719, 1279), (4, 3)]
)  # fmt: skip
def test_an_image_is_scaled_as_in_pytorch_to_two_steps_of_255(tiny: TinyEngine, image_hw: tuple[int, int]) -> None:
    info, traits = _info(tiny.spec, "image"), tiny.spec.traits
    session = _session(info)
    noisy = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), np.uint8)
    for image in (noisy, _smooth(*image_hw)):
        placed = place_on_canvas(image, CANVAS_HW, traits.mean, traits.std)
        got = session.run({"images": image[None]})
        assert got["seen"].tolist() == [list(placed.size_hw)]
        steps = np.abs(got["pixels"][0] - placed.pixels) * np.array(traits.std, np.float32)[:, None, None] * 255
        assert steps.max() < 2.01 and (steps > 1.01).mean() < 1e-3, f"{steps.max():.2f} steps of 255"
        assert (steps < 0.01).mean() > 0.85, f"only {(steps < 0.01).mean():.3f} of the pixels are equal"
        np.testing.assert_allclose(got["boxes"], boxes_in_image(BOXES, placed), rtol=1e-5, atol=1e-4)


def test_sizes_are_those_of_letterbox_for_any_image(tiny: TinyEngine) -> None:
    """Rounding of factors in float32 must not lose a row or column."""
    session = _session(_info(tiny.spec, "image"))
    for height, width in np.random.default_rng(1).integers(8, 700, (60, 2)):
        image = np.zeros((height, width, 3), np.uint8)
        seen, _ = letterbox(image, CANVAS_HW)
        assert session.run({"images": image[None]})["seen"].tolist() == [list(seen.shape[:2])]


@pytest.mark.parametrize("form", ["uint8", "uint8-nhwc"])
def test_a_detector_on_bytes_finds_the_same(tiny: TinyEngine, tmp_path: Path, form: InputForm) -> None:
    info = ArtifactInfo(tiny.spec, tiny.classes, tiny.size_hw, 2, "fp32", {}, input=form)
    path = write_artifact(onnx.load(tiny.path), info, tmp_path / "bytes.onnx")
    traits = tiny.spec.traits
    pixels = np.random.default_rng(2).integers(0, 256, (2, 3, *tiny.size_hw)).astype(np.float32)
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (traits.mean, traits.std))
    images, sizes = torch.from_numpy((pixels / 255 - mean) / std), torch.tensor([tiny.size_hw] * 2)
    batch = type("Batch", (), {"images": images, "sizes_hw": sizes})
    with open_runner(path) as runner, torch.no_grad():
        assert runner.metadata == info
        result = compare(tiny.detector, predictor(runner), [batch])
        with pytest.raises(InputError, match="'images' must be .* uint8, got"):
            runner.run(images.numpy(), sizes.numpy())
    assert result.passed and result.detections > 20, result.message


def test_prepared_images_go_back_to_their_pixels(tiny: TinyEngine) -> None:
    image = _smooth(128, 60)
    for form in ("normalized", "uint8", "uint8-nhwc", "image"):
        info = _info(tiny.spec, form)
        ready = prepare(info, image)
        assert ready.images.shape[0] == 1 and noise(info)[0].shape == (ready.images.shape if form != "image" else (1, *CANVAS_HW, 3))
        scale = 1.0 if form == "image" else 0.5
        box = np.array([4.0, 8.0, 20.0, 28.0]) * scale
        np.testing.assert_allclose(ready.boxes_in_image(box), [4.0, 8.0, 20.0, 28.0])
        assert ready.sizes_hw.tolist() == ([[128, 60]] if form == "image" else [[64, 30]])
