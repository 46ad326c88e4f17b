import asyncio
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.artifact import ArtifactInfo
from jdnas.serve.contract import Contract
from jdnas.serve.limits import Refusal, read_body
from jdnas.serve.protocol import InferRequest, build_reply, parse_request
from jdnas.spec import DetectorSpec, Head, Stage

SPEC = DetectorSpec("resnet_basic", 8, tuple(Stage(width, (width,)) for width in (8, 8, 16, 16)), 2, neck=8, head=Head(detections=3))
CONTRACT = Contract(ArtifactInfo(SPEC, ("a", "b"), (32, 64), 2, "fp32", {}))
IMAGES = np.arange(3 * 32 * 64, dtype=np.float32).reshape(1, 3, 32, 64)
SIZES = np.array([[32, 50]], np.int64)
JSON_LIMIT = 1 << 18


def document(**changes: Any) -> dict[str, Any]:
    """A whole request in JSON; `images` and `sizes_hw` change entries of its inputs, other names those of the request."""
    inputs = [
        {"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 64], "data": IMAGES.reshape(-1).tolist()} | changes.pop("images", {}),
        {"name": "sizes_hw", "datatype": "INT64", "shape": [1, 2], "data": [32, 50]} | changes.pop("sizes_hw", {}),
    ]
    return {"inputs": inputs} | changes


def binary(images: bytes = IMAGES.tobytes(), sizes: bytes = SIZES.tobytes(), **changes: Any) -> tuple[bytes, str]:
    """A request with binary tensors and the length of its JSON part."""
    whole = document(**changes)
    for entry, data in zip(whole["inputs"], (images, sizes), strict=True):
        del entry["data"]
        entry.setdefault("parameters", {"binary_data_size": len(data)})
    header = json.dumps(whole).encode()
    return header + images + sizes, str(len(header))


def read(body: bytes | dict[str, Any], length: str | None = None) -> InferRequest:
    return parse_request(json.dumps(body).encode() if isinstance(body, dict) else body, length, CONTRACT, json_limit=JSON_LIMIT)


def encoded_bytes(*texts: bytes, shape: Any = None, tail: bytes = b"") -> tuple[bytes, str]:
    data = b"".join(struct.pack("<I", len(text)) + text for text in texts) + tail
    entry = {"name": "encoded", "datatype": "BYTES", "shape": shape or [len(texts)], "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [entry]}).encode()
    return header + data, str(len(header))


@pytest.mark.parametrize("nested", [False, True])
def test_json_and_binary_tensors_are_the_same(nested: bool) -> None:
    plain = document(id="7", images={"data": IMAGES.tolist()} if nested else {})
    for request in (read(plain), read(*binary(id="7"))):
        np.testing.assert_array_equal(request.tensors["images"], IMAGES)
        np.testing.assert_array_equal(request.tensors["sizes_hw"], SIZES)
        assert request.tensors["images"].flags.aligned and request.id == "7"
        assert request.outputs == {"boxes": False, "scores": False, "labels": False, "count": False}


def test_image_files_come_as_bytes_or_in_base64() -> None:
    assert read(*encoded_bytes(b"first", b"")).encoded == (b"first", b"")
    entry = {"name": "encoded", "datatype": "BYTES", "shape": [2], "data": ["Zmlyc3Q=", ""]}
    assert read({"inputs": [entry]}).encoded == (b"first", b"")


def test_outputs_are_those_asked_for_in_the_form_asked_for() -> None:
    asked = [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "count"}]
    assert read(document(outputs=asked)).outputs == {"scores": True, "count": False}
    assert set(read(document(parameters={"binary_data_output": True})).outputs.values()) == {True}
    request = InferRequest("x", {}, (), {"scores": True, "count": False, "labels": True})
    outputs = {"scores": np.array([[0.5, 0.25]], np.float32), "count": np.array([1]), "labels": np.array([[2, 1]])}
    body, headers = build_reply("m", request, outputs)
    length = int(headers["Inference-Header-Content-Length"])
    reply = json.loads(body[:length])
    assert (
        reply["id"] == "x" and reply["model_name"] == "m" and [entry["name"] for entry in reply["outputs"]] == ["scores", "count", "labels"]
    )
    assert reply["outputs"][1] == {"name": "count", "datatype": "INT64", "shape": [1], "data": [1]}
    assert body[length:] == struct.pack("<2f", 0.5, 0.25) + struct.pack("<2q", 2, 1)


WRONG: dict[str, tuple[Any, int, str]] = {
    "no JSON": ((b"\xff\xd8\xff",), 400, "cannot be read"),
    "not an object": ((b"[]",), 400, "object"),
    "deep JSON": ((b"[" * 100_000,), 400, "cannot be read"),
    "a long integer": ((b'{"id": ' + b"9" * 5000 + b"}",), 400, "cannot be read"),
    "NaN in JSON": (({"inputs": [], "x": float("nan")},), 400, "NaN"),
    "much JSON": ((b" " * (JSON_LIMIT + 1),), 413, "at most"),
    "header beyond the limit": ((b"{}", str(10**9)), 413, "at most"),
    "header beyond the body": ((b"{}", "3"), 400, "the body has 2"),
    "header below zero": ((b"{}", "-1"), 400, "number of bytes"),
    "header of many digits": ((b"{}", "1" * 5000), 400, "number of bytes"),
    "header of other digits": ((b"{}", "²"), 400, "number of bytes"),
    "no inputs": (({},), 400, "got none"),
    "half the inputs": (({"inputs": document()["inputs"][:1]},), 400, "got images"),
    "inputs that are no list": (({"inputs": {"name": "images"}},), 400, "list of objects"),
    "an input twice": (({"inputs": document()["inputs"] * 2},), 400, "twice"),
    "an unknown input": ((document(images={"name": "../../etc/passwd"}),), 400, "no input"),
    "an unknown output": ((document(outputs=[{"name": "masks"}]),), 400, "no output"),
    "shared memory": ((document(images={"parameters": {"shared_memory_region": "/dev/mem"}}),), 400, "shared memory"),
    "classification": ((document(outputs=[{"name": "scores", "parameters": {"classification": 3}}]),), 400, "classification"),
    "parameters that are no object": ((document(parameters=[1]),), 400, "must be an object"),
    "another type": ((document(images={"datatype": "FP16"}),), 400, "FP32, got"),
    "another height": ((document(images={"shape": [1, 3, 33, 64]}),), 400, "[1..2, 3, 32, 64]"),
    "too many images": ((document(images={"shape": [3, 3, 32, 64]}),), 400, "[1..2, 3, 32, 64]"),
    "no image": ((document(images={"shape": [0, 3, 32, 64], "data": []}),), 400, "[1..2, 3, 32, 64]"),
    "a negative side": ((document(images={"shape": [-1, -3, 32, 64]}),), 400, "must be"),
    "an endless shape": ((document(images={"shape": [1] * 9999}),), 400, "must be"),
    "a shape of booleans": ((document(sizes_hw={"shape": [True, 2]}),), 400, "list of integers"),
    "a ragged tensor": ((document(sizes_hw={"data": [[1], [2, 3]]}),), 400, "not a tensor"),
    "text for numbers": ((document(sizes_hw={"data": ["32", "50"]}),), 400, "numbers"),
    "fractions for integers": ((document(sizes_hw={"data": [32.5, 50]}),), 400, "numbers"),
    "numbers beyond 64 bits": ((document(sizes_hw={"data": [2**70, 50]}),), 400, "numbers"),
    "too few numbers": ((document(sizes_hw={"data": [32]}),), 400, "2 numbers"),
    "an image larger than the canvas": ((document(sizes_hw={"data": [33, 64]}),), 400, "1..32"),
    "an image without pixels": ((document(sizes_hw={"data": [0, 64]}),), 400, "1..32"),
    "different numbers of images": ((document(sizes_hw={"shape": [2, 2], "data": [1, 1, 1, 1]}),), 400, "differ"),
    "numbers beyond float32": ((document(images={"data": [1e300] * IMAGES.size}),), 400, "finite"),
    "binary NaN": (binary(images=np.full_like(IMAGES, np.nan).tobytes()), 400, "finite"),
    "too few bytes": (binary(images=b"1234"), 400, "takes 24576 bytes, got 4"),
    "bytes left over": ((binary()[0] + b"x", binary()[1]), 400, "binary data"),
    "bytes that are not there": ((binary()[0][:-1], binary()[1]), 400, "are left"),
    "data twice": (({"inputs": [document()["inputs"][0] | {"parameters": {"binary_data_size": 0}}]},), 400, "both"),
    "a cut element": (encoded_bytes(b"abc", tail=b"\x09"), 400, "BYTES"),
    "more elements than bytes": (encoded_bytes(b"abc", shape=[2]), 400, "BYTES"),
    "an element beyond the end": (encoded_bytes(tail=struct.pack("<I", 2**32 - 1), shape=[1]), 400, "BYTES"),
    "no base64": (({"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["%%%"]}]},), 400, "base64"),
    "an id that is no text": ((document(id=7),), 400, "string"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_and_named(case: str) -> None:
    arguments, status, message = WRONG[case]
    with pytest.raises(Refusal) as refusal:
        read(*arguments)
    assert refusal.value.status == status and message in str(refusal.value) and len(str(refusal.value)) < 500


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_requests_are_read_or_refused(data: st.DataObject) -> None:
    body, length = data.draw(st.sampled_from([binary(), encoded_bytes(b"abc", b"defg"), (json.dumps(document()).encode(), None)]))
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged) - 1, 400)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(damaged), len(damaged) // 2, 10]))
    shifted = length if length is None else str(int(length) + data.draw(st.integers(-2, 2)))
    try:
        read(bytes(damaged[:cut]), shifted)
    except Refusal as refusal:
        assert 400 <= refusal.status < 500


def test_tensors_of_a_received_body_are_taken_where_they_are() -> None:
    """Runtimes that only take what can be written to would copy them otherwise."""

    async def chunks() -> AsyncIterator[bytes]:
        yield whole[:100]
        yield whole[100:]

    whole, length = binary()
    body = asyncio.run(read_body(chunks(), None, 1 << 20))
    tensors = parse_request(body, length, CONTRACT, json_limit=JSON_LIMIT).tensors
    assert all(array.flags.writeable for array in tensors.values())
    np.testing.assert_array_equal(tensors["images"], IMAGES)
