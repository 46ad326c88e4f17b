"""The protocol as tritonclient speaks it, each reply compared with the bare runner."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import jdnas
from export.runners import Runner, padded_run, predictor
from jdnas.pipeline.single import OpenModel, detect_in_image
from jdnas.serve.limits import Limits
from tests.serve.conftest import BATCH, CLASSES, Hooked, Server, Serving, file_of, noise, picture, same

http = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
Exception_ = pytest.importorskip("tritonclient.utils").InferenceServerException
NAMES = ("boxes", "scores", "labels", "count")


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with http.InferenceServerClient(server.address) as opened:
        yield opened


def tensors(images: Any, sizes_hw: Any, binary: bool = True) -> list[Any]:
    inputs = [http.InferInput("images", images.shape, "FP32"), http.InferInput("sizes_hw", sizes_hw.shape, "INT64")]
    for one, data in zip(inputs, (images, sizes_hw), strict=True):
        one.set_data_from_numpy(data, binary_data=binary)
    return inputs


def arrays(result: Any) -> dict[str, Any]:
    return {name: result.as_numpy(name) for name in NAMES}


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("tiny") and client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("other") and not client.is_model_ready("tiny", "2")
    told = client.get_server_metadata()
    assert (told["name"], told["version"]) == ("jdnas", jdnas.__version__) and "binary_tensor_data" in told["extensions"]
    assert [one["name"] for one in client.get_model_repository_index()] == ["second", "tiny"]
    model = client.get_model_metadata("tiny")
    assert model["versions"] == ["1"] and model["parameters"]["classes"] == list(CLASSES) and model["parameters"]["max_images"] == BATCH
    assert {one["name"]: (one["datatype"], one["shape"]) for one in model["inputs"]} == {
        "images": ("FP32", [-1, 3, 64, 96]), "sizes_hw": ("INT64", [-1, 2]), "encoded": ("BYTES", [-1]),
    }  # fmt: skip
    assert {one["name"]: (one["datatype"], one["shape"]) for one in model["outputs"]} == {
        "boxes": ("FP32", [-1, 20, 4]), "scores": ("FP32", [-1, 20]), "labels": ("INT64", [-1, 20]), "count": ("INT64", [-1]),
    }  # fmt: skip


@pytest.mark.parametrize("count", [1, BATCH])
@pytest.mark.parametrize("binary", [True, False])
def test_tensors_give_what_the_runner_gives(client: Any, runner: Runner, count: int, binary: bool) -> None:
    images, sizes = noise(count, count)
    images = images.round(2)  # short in JSON
    wanted = padded_run(runner, images, sizes)
    outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in NAMES]
    result = client.infer("tiny", tensors(images, sizes, binary), outputs=outputs, request_id="abc", model_version="1")
    found = arrays(result)
    assert result.get_response()["id"] == "abc" and int(wanted["count"].sum()) > 0
    for name in NAMES:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-4)
        assert found[name].dtype == wanted[name].dtype
    defaults = arrays(client.infer("second", tensors(images, sizes, binary)))  # asks for all outputs in binary form
    assert all(np.allclose(defaults[name], wanted[name], atol=1e-4) for name in NAMES)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_bodies(client: Any, runner: Runner, algorithm: str) -> None:
    images, sizes = noise(5)
    found = arrays(client.infer("tiny", tensors(images, sizes), request_compression_algorithm=algorithm))
    assert same(found, padded_run(runner, images, sizes))


@pytest.mark.parametrize("binary", [True, False])
def test_image_files_give_what_prediction_gives(client: Any, runner: Runner, binary: bool) -> None:
    files = [file_of(picture(1)), file_of(picture(2, (50, 130)), "JPEG", quality=95)]
    if binary:
        data = http.InferInput("encoded", [2], "BYTES")
        data.set_data_from_numpy(np.array(files, dtype=object))
        found = arrays(client.infer("tiny", [data]))
    else:
        found = _plain_json(client, files)
    for row, data in enumerate(files):
        boxes, labels, scores = _predicted(runner, data)
        count = int(found["count"][row])
        assert count == len(scores) > 0
        np.testing.assert_allclose(found["boxes"][row, :count], boxes, atol=1e-3)
        np.testing.assert_allclose(found["scores"][row, :count], scores, atol=1e-5)
        np.testing.assert_array_equal(found["labels"][row, :count], labels)


def _plain_json(client: Any, files: list[bytes]) -> dict[str, Any]:
    """Ask in JSON alone, which tritonclient does not do with base64."""
    import base64
    import urllib.request

    data = [base64.b64encode(file).decode() for file in files]
    body = json.dumps({"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [len(files)], "data": data}]}).encode()
    address = f"http://{client._parsed_url.netloc}/v2/models/tiny/infer"
    with urllib.request.urlopen(address, data=body, timeout=20) as reply:
        outputs = json.load(reply)["outputs"]
    return {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in outputs}


def _predicted(runner: Runner, data: bytes) -> tuple[Any, Any, Any]:
    from jdnas.data.images import decode_image

    info = runner.metadata
    model = OpenModel(predictor(runner), info.spec, info.classes, info.size_hw)
    return detect_in_image(model, decode_image(data, max_pixels=10**6), 0.0)


def test_what_is_wrong_reaches_the_client_as_its_error(client: Any) -> None:
    images, sizes = noise(1)
    with pytest.raises(Exception_, match="no such model"):
        client.infer("other", tensors(images, sizes))
    with pytest.raises(Exception_, match=r"must be \[1..2, 3, 64, 96\] FP32"):
        client.infer("tiny", tensors(images[:, :, :32], sizes))
    with pytest.raises(Exception_, match="no output"):
        client.infer("tiny", tensors(images, sizes), outputs=[http.InferRequestedOutput("masks")])


def test_sixteen_clients_each_get_their_own_replies(server: Server, runner: Runner) -> None:
    inputs = [noise(seed) for seed in range(24)]
    wanted = [padded_run(runner, *one) for one in inputs]
    assert not any(same(wanted[0], other) for other in wanted[1:])  # a mixed-up reply would show
    end, done, wrong = time.monotonic() + 3, [0] * 16, []

    def ask(number: int) -> None:
        with http.InferenceServerClient(server.address, connection_timeout=20, network_timeout=20) as mine:
            while time.monotonic() < end or not done[number]:
                at = (number * 7 + done[number]) % len(inputs)
                try:
                    if not same(arrays(mine.infer("tiny", tensors(*inputs[at]))), wanted[at]):
                        wrong.append(f"client {number}: not the reply to {at}")
                except Exception as error:
                    wrong.append(f"client {number}: {error!r}")
                done[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and min(done) >= 1


def test_overload_is_answered_503_and_the_rest_is_served(serving: Serving, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    free.set()
    hooked = Hooked(runner, lambda _: free.wait(20))
    monkeypatch.setattr("jdnas.serve.models.open_runner", lambda *_, **__: hooked)
    inputs = [noise(seed) for seed in range(12)]
    wanted = [padded_run(runner, *one) for one in inputs]
    with serving(Limits(queue=4, timeout_s=20), images=False) as server:
        free.clear()
        outcomes: list[str] = []

        def ask(at: int) -> None:
            with http.InferenceServerClient(server.address, network_timeout=30) as mine:
                try:
                    outcomes.append("right" if same(arrays(mine.infer("tiny", tensors(*inputs[at]))), wanted[at]) else "wrong")
                except Exception_ as error:
                    outcomes.append(f"{error.status()} {error.message()}")
                if len(outcomes) == 8:
                    free.set()

        threads = [threading.Thread(target=ask, args=(at,)) for at in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("right") == 4, outcomes
        assert sum(one.startswith("503") and "try again" in one for one in outcomes) == 8, outcomes
        with http.InferenceServerClient(server.address) as mine:
            assert same(arrays(mine.infer("tiny", tensors(*inputs[0]))), wanted[0])
