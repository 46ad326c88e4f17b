"""The export form of the detector as a graph: static shapes, standard operators, the detections of the eager form."""

import warnings
from dataclasses import replace

import pytest
import torch

from jdnas.models.detector import EXPORT
from tests.models.test_detector import IMAGES, SIZES, finds, lively


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "detector.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of itself
        program = torch.onnx.export(
            lively(forms=replace(EXPORT, nms_iterations=10)),
            (IMAGES[:1], SIZES[:1]),
            dynamo=True,
            opset_version=18,
            input_names=["images", "sizes_hw"],
            output_names=["boxes", "scores", "labels", "count"],
            verbose=False,
        )
    program.save(path)
    return path


def test_the_export_form_has_static_shapes_and_standard_operators(exported):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {""}
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"NonZero", "NonMaxSuppression", "Loop", "If", "Scan", "Unique", "Compress", "RoiAlign"}
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    assert all(dimension.HasField("dim_value") for value in values for dimension in value.type.tensor_type.shape.dim)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in (*model.graph.input, *model.graph.output)}
    assert shapes == {
        "images": [1, 3, 128, 160], "sizes_hw": [1, 2], "boxes": [1, 20, 4], "scores": [1, 20], "labels": [1, 20], "count": [1],
    }  # fmt: skip


def test_the_exported_graph_finds_what_eager_finds(exported):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    detector = lively()
    for row in range(2):
        images, sizes = IMAGES[row : row + 1], SIZES[row : row + 1]
        boxes, scores, labels, count = session.run(None, {"images": images.numpy(), "sizes_hw": sizes.numpy()})
        expected = finds(detector, images, sizes)
        assert count[0] == expected.count[0] > 0
        torch.testing.assert_close(torch.from_numpy(boxes), expected.boxes_xyxy, atol=0.1, rtol=0)
        torch.testing.assert_close(torch.from_numpy(scores), expected.scores, atol=1e-3, rtol=0)
        assert torch.equal(torch.from_numpy(labels), expected.labels)
