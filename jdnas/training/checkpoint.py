"""Checkpoints: tensors as safetensors, everything else as JSON beside them; never pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from jdnas.atomic import write_atomically
from jdnas.errors import CheckpointError
from jdnas.models.weights import State, check_state
from jdnas.spec import DetectorSpec

OWN_SUFFIXES = frozenset({".safetensors", ".json"})


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    write_atomically(path, (json.dumps(data, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a CheckpointError says what is wrong with the file."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {path}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); delete it and run the step again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not an object")
    return data


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, atomically."""
    write_atomically(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def load_tensors(path: Path) -> State:
    """Read a safetensors file; a CheckpointError says what is wrong with it."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no such weight file: {path}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file ({error})") from error


def stem_of(path: Path) -> Path:
    """Return what `save_detector` was given for a file that it wrote, `r50.v2` for `r50.v2.safetensors`; other paths as they are."""
    return path.with_suffix("") if path.suffix in OWN_SUFFIXES else path


def _file(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)  # a dot in the name is part of it


def save_detector(stem: Path, spec: DetectorSpec, state: State, meta: Mapping[str, Any]) -> None:
    """Write `stem.safetensors` and then `stem.json` (spec and `meta`): the JSON is there only when the weights are."""
    save_tensors(_file(stem, ".safetensors"), state)
    write_json(_file(stem, ".json"), {"spec": spec.to_dict(), "meta": dict(meta)})


def has_detector(stem: Path) -> bool:
    """Tell whether `save_detector` finished for this stem."""
    return all(_file(stem, suffix).exists() for suffix in OWN_SUFFIXES)


def load_detector(stem: Path) -> tuple[DetectorSpec, State, dict[str, Any]]:
    """Read spec, state and meta of a detector; a CheckpointError lists what does not fit."""
    header, path = read_json(_file(stem, ".json")), _file(stem, ".safetensors")
    if "spec" not in header:
        raise CheckpointError(f"{_file(stem, '.json')} holds no detector spec")
    spec = DetectorSpec.from_dict(header["spec"])
    state = load_tensors(path)
    check_state(state, spec, source=str(path))
    return spec, state, dict(header.get("meta", {}))
