"""Requests and replies of the Open Inference Protocol v2 with Triton's binary tensor extension, as bytes and arrays.

Sources: the Open Inference Protocol's inference_rest.md, Triton's extension_binary_data.md.
"""

import base64
import binascii
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from export.session import Array
from jdnas.serve.contract import DTYPES, VERSION, Contract, TensorSpec
from jdnas.serve.limits import Refusal

Body = bytes | bytearray
HEADER_LENGTH = "Inference-Header-Content-Length"
_LENGTH = "[0-9]{1,15}"
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that was checked against its model's contract.

    tensors: arrays by input name, views of the body where they were binary. encoded: image files, where those were sent instead.
    outputs: what is asked for, and whether each is to be binary.
    """

    id: str | None
    tensors: Mapping[str, Array]
    encoded: tuple[bytes, ...]
    outputs: Mapping[str, bool]


def parse_request(body: Body, header_length: str | None, contract: Contract, *, json_limit: int) -> InferRequest:
    """Read the body of an inference request; a Refusal says what is wrong with it."""
    document, binary = _split(body, header_length, json_limit)
    name = document.get("id")
    if name is not None and not isinstance(name, str):
        raise Refusal(400, "'id' must be a string")
    entries = _entries(document, "inputs")
    arrays: dict[str, Any] = {}
    at = 0
    for key, entry in entries.items():
        spec = contract.inputs.get(key)
        if spec is None:
            raise Refusal(400, f"there is no input {key[:80]!r}; known: {', '.join(contract.inputs)}")
        arrays[key], at = _input(entry, spec, contract, binary, at)
    if at != len(binary):
        raise Refusal(400, f"the inputs take {at} bytes of binary data, the body has {len(binary)}")
    if set(arrays) not in (set(contract.tensors), {"encoded"}):
        wanted = " and ".join(map(repr, contract.tensors))
        raise Refusal(400, f"a request has the inputs {wanted}, or 'encoded'; got {', '.join(sorted(arrays)) or 'none'}")
    encoded = arrays.pop("encoded", ())
    if arrays:
        contract.check_tensors(arrays["images"], arrays.get("sizes_hw"))
    return InferRequest(name, arrays, tuple(encoded), _outputs(document, contract))


def build_reply(model: str, request: InferRequest, outputs: Mapping[str, Array]) -> tuple[bytes, dict[str, str]]:
    """Return the body of a reply and its headers."""
    entries, parts = [], []
    for name, binary in request.outputs.items():
        array = np.ascontiguousarray(outputs[name])
        entry: dict[str, Any] = {"name": name, "datatype": _DATATYPES[array.dtype], "shape": list(array.shape)}
        if binary:
            parts.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = array.reshape(-1).tolist()
        entries.append(entry)
    reply: dict[str, Any] = {"model_name": model, "model_version": VERSION, "outputs": entries}
    if request.id is not None:
        reply["id"] = request.id
    header = json.dumps(reply).encode()
    if not parts:
        return header, {"Content-Type": "application/json"}
    return b"".join([header, *parts]), {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}


def json_bytes(body: Body, header_length: str | None) -> int:
    """Return how much of a body is JSON, as far as its header can be believed."""
    return int(header_length) if header_length is not None and re.fullmatch(_LENGTH, header_length) else len(body)


def _split(body: Body, header_length: str | None, json_limit: int) -> tuple[dict[str, Any], memoryview]:
    length = len(body)
    if header_length is not None:
        if not re.fullmatch(_LENGTH, header_length):
            raise Refusal(400, f"{HEADER_LENGTH} must be a number of bytes, got {header_length[:40]!r}")
        length = int(header_length)
    if length > json_limit:
        raise Refusal(413, f"the JSON part has {length} bytes; at most {json_limit} are allowed, so send tensors as binary data")
    if length > len(body):
        raise Refusal(400, f"{HEADER_LENGTH} is {length}, the body has {len(body)} bytes")
    try:
        document = json.loads(body[:length].decode(), parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the JSON part cannot be read: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise Refusal(400, "the JSON part must be an object")
    return document, memoryview(body)[length:]


def _not_json(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _entries(document: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    listed = document.get(kind, [])
    if not isinstance(listed, list) or not all(isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in listed):
        raise Refusal(400, f"{kind!r} must be a list of objects with a 'name'")
    entries = {entry["name"]: entry for entry in listed}
    if len(entries) != len(listed):
        raise Refusal(400, f"{kind!r} has one name twice")
    for entry in listed:
        if "shared_memory_region" in _parameters(entry):
            raise Refusal(400, "shared memory is not supported; send tensors in the body")
    return entries


def _parameters(entry: Mapping[str, Any]) -> dict[str, Any]:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise Refusal(400, "'parameters' must be an object")
    return parameters


def _outputs(document: dict[str, Any], contract: Contract) -> dict[str, bool]:
    default = bool(_parameters(document).get("binary_data_output", False))
    entries = _entries(document, "outputs")
    for name, entry in entries.items():
        if name not in contract.outputs:
            raise Refusal(400, f"there is no output {name[:80]!r}; known: {', '.join(contract.outputs)}")
        if "classification" in _parameters(entry):
            raise Refusal(400, "the classification extension is not supported; ask for labels and scores")
    return {name: bool(_parameters(entries.get(name, {})).get("binary_data", default)) for name in entries or contract.outputs}


def _input(entry: dict[str, Any], spec: TensorSpec, contract: Contract, binary: memoryview, at: int) -> tuple[Any, int]:
    """Return an input and where the next one's binary data starts."""
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int for side in shape):
        raise Refusal(400, f"input {spec.name!r} needs a 'shape', a list of integers")
    contract.check_shape(spec, entry.get("datatype"), shape)
    size = _parameters(entry).get("binary_data_size")
    if size is None:
        data = _texts(entry, shape[0]) if spec.datatype == "BYTES" else _numbers(entry, spec, shape)
        return data, at
    if "data" in entry:
        raise Refusal(400, f"input {spec.name!r} has both 'data' and binary data")
    if type(size) is not int or not 0 <= size <= len(binary) - at:
        raise Refusal(400, f"input {spec.name!r}: binary_data_size is {str(size)[:40]}, {len(binary) - at} bytes are left in the body")
    part = binary[at : at + size]
    return (_byte_strings(part, shape[0]) if spec.datatype == "BYTES" else _binary(part, spec, shape)), at + size


def _binary(part: memoryview, spec: TensorSpec, shape: list[int]) -> Array:
    dtype = DTYPES[spec.datatype]
    wanted = math.prod(shape) * dtype.itemsize
    if len(part) != wanted:
        raise Refusal(400, f"input {spec.name!r} takes {wanted} bytes, got {len(part)}")
    return np.require(np.frombuffer(part, dtype).reshape(shape), requirements=["C", "A"])


def _numbers(entry: dict[str, Any], spec: TensorSpec, shape: list[int]) -> Array:
    try:
        data = np.asarray(entry.get("data"))
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"input {spec.name!r}: 'data' is not a tensor") from error
    if data.dtype.kind not in ("iuf" if spec.datatype == "FP32" else "iu") or data.size != math.prod(shape):
        raise Refusal(400, f"input {spec.name!r} needs 'data' with {math.prod(shape)} numbers of {spec.datatype}")
    if spec.datatype == "UINT8" and not 0 <= data.min() <= data.max() <= 255:
        raise Refusal(400, f"input {spec.name!r} must hold numbers in 0..255")
    with np.errstate(all="ignore"):  # what is too large for float32 becomes infinite, and is refused as that
        return data.astype(DTYPES[spec.datatype]).reshape(shape)


def _texts(entry: dict[str, Any], count: int) -> list[bytes]:
    data = entry.get("data")
    if not isinstance(data, list) or len(data) != count or not all(isinstance(text, str) for text in data):
        raise Refusal(400, f"input {entry['name']!r} needs 'data' with {count} strings, the images' bytes in base64")
    try:
        return [base64.b64decode(text, validate=True) for text in data]
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, f"input {entry['name']!r}: 'data' is not base64") from error


def _byte_strings(part: memoryview, count: int) -> list[bytes]:
    strings, at = [], 0
    for _ in range(count):
        start = at + 4
        at = start + struct.unpack_from("<I", part, at)[0] if start <= len(part) else len(part) + 1
        if at > len(part):
            break
        strings.append(bytes(part[start:at]))
    if at != len(part):
        raise Refusal(400, f"BYTES are {count} elements, each with its length as 4 bytes before it; these {len(part)} bytes are not")
    return strings
