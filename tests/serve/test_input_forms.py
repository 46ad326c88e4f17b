"""Engines that take bytes or whole images, served: their contract, their tensors, and image files."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from export.artifact import ArtifactInfo, InputForm
from export.feeding import prepare
from export.graph import export_onnx, write_artifact
from export.runners import open_runner
from jdnas.serve.contract import Contract
from jdnas.serve.limits import Limits, Refusal
from jdnas.serve.protocol import parse_request
from tests.serve.conftest import CLASSES, file_of, picture, running, same, small_detector

http = pytest.importorskip("tritonclient.http")


@pytest.fixture(scope="module")
def engines(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small engine with other input forms; for whole images with batch 1, which takes an export of its own."""
    folder = tmp_path_factory.mktemp("forms")
    with open_runner(engine, threads=1) as runner:
        info = runner.metadata
    made = {}
    for form in ("uint8", "uint8-nhwc"):
        changed = ArtifactInfo(info.spec, info.classes, info.size_hw, info.batch, "fp32", {}, input=form)
        made[form] = write_artifact(onnx.load(engine), changed, folder / f"{form}.onnx")
    detector = small_detector()
    made["image"] = export_onnx(
        detector.state_dict(), detector.spec, size_hw=info.size_hw, path=folder / "image.onnx", classes=CLASSES, input_form="image"
    )
    return made


@pytest.mark.parametrize("form", ["uint8", "uint8-nhwc", "image"])
def test_files_and_tensors_are_answered_as_by_the_runner(engines: dict[str, Path], form: InputForm) -> None:
    image = picture(3, (80, 60))
    with open_runner(engines[form], threads=1) as runner, running(engines[form], Limits()) as server:
        ready = prepare(runner.metadata, image)
        rows = runner.metadata.batch
        filled = np.concatenate([ready.images] * rows), np.concatenate([ready.sizes_hw] * rows)
        wanted = runner.run(*filled)
        assert wanted["count"][0] > 0
        client = http.InferenceServerClient(server.address)
        metadata = client.get_model_metadata(form)
        assert metadata["parameters"]["input_form"] == form
        names = ["images"] if form == "image" else ["images", "sizes_hw"]
        assert metadata["parameters"]["input_sets"] == [names, ["encoded"]]
        inputs = [http.InferInput("images", ready.images.shape, "UINT8")]
        inputs[0].set_data_from_numpy(ready.images)
        if form != "image":
            inputs.append(http.InferInput("sizes_hw", [1, 2], "INT64"))
            inputs[1].set_data_from_numpy(ready.sizes_hw)
        outputs = [http.InferRequestedOutput(name) for name in ("boxes", "scores", "labels", "count")]
        reply = client.infer(form, inputs, outputs=outputs)
        assert same({name: reply.as_numpy(name) for name in wanted}, wanted)
        encoded = http.InferInput("encoded", [1], "BYTES")
        encoded.set_data_from_numpy(np.array([file_of(image)], dtype=object))
        reply = client.infer(form, [encoded], outputs=outputs)
        in_image = dict(wanted) | {"boxes": ready.boxes_in_image(wanted["boxes"])}
        assert same({name: reply.as_numpy(name) for name in wanted}, in_image)
        client.close()


@pytest.fixture
def contract(engines: dict[str, Path]) -> Iterator[Contract]:
    with open_runner(engines["image"], threads=1) as runner:
        yield Contract(runner.metadata)


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [([1, 2, 2, 3], [256] * 12, "numbers in 0..255"), ([1, 2, 2, 3], [0.5] * 12, "12 numbers of UINT8"),
     ([2, 2, 2, 3], [0] * 24, r"\[1, any, any, 3\] UINT8"), ([1, 0, 2, 3], [], r"\[1, any, any, 3\]"),
     ([1, 1 << 40, 1 << 40, 3], [0], "numbers of UINT8")],
)  # fmt: skip
def test_images_that_are_none(contract: Contract, shape: list[int], data: list[float], message: str) -> None:
    body = json.dumps({"inputs": [{"name": "images", "datatype": "UINT8", "shape": shape, "data": data}]}).encode()
    with pytest.raises(Refusal, match=message):
        parse_request(body, None, contract, json_limit=1 << 20)


def test_an_image_as_numbers(contract: Contract) -> None:
    body = json.dumps({"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [1, 2, 3, 4, 5, 255]}]}).encode()
    found = parse_request(body, None, contract, json_limit=1 << 20).tensors
    assert found["images"].dtype == np.uint8 and found["images"].tolist() == [[[[1, 2, 3], [4, 5, 255]]]]
    assert Image.open(io.BytesIO(file_of(found["images"][0]))).size == (2, 1)
