"""Reading weight files of other projects without running any code that they may hold."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from jdnas.errors import CheckpointError

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6 begins with this pickled number
_LFS = b"version https://git-lfs"
_WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "ema_state_dict", "ema", "module", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.")


class _Inert(list[Any]):
    """Stands for an object of a training log that is of no use here: it takes whatever a pickle gives it and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None: ...


# What other projects keep beside the weights: logs, metrics and arguments. None of these names is imported.
_LOGS = tuple(
    (_Inert, name)
    for name in (
        "argparse.Namespace", "builtins.getattr", "collections.deque", "collections.defaultdict", "builtins.list", "builtins.dict",
        "mmengine.logging.history_buffer.HistoryBuffer", "mmengine.logging.message_hub.MessageHub", "mmengine.config.config.ConfigDict",
        "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar", "numpy.ndarray", "numpy.dtype", "pathlib.PosixPath", "pathlib.Path", "yacs.config.CfgNode",
        "fvcore.common.config.CfgNode", "detectron2.config.config.CfgNode", "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "omegaconf.nodes.AnyNode",
        "typing.Any",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Archive:
    """A weight file: its tensors in float32 by their own names, less a prefix that all share, and what else stood beside them."""

    path: Path
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def read_archive(path: Path) -> Archive:
    """Read a .safetensors or torch.save file; a CheckpointError says what is wrong with it.

    Files that would need code to be run are refused: torch reads with `weights_only`, and nothing falls back to plain pickle.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is a folder; give the weight file in it" if path.is_dir() else f"no such weight file: {path}")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(_LFS):
        raise CheckpointError(f"{path} is a pointer of Git LFS, not the file itself; fetch it with: git lfs pull")
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        content: Any = _read_safetensors(path)
    elif head.startswith((_ZIP, _OLD_TORCH)):
        content = _read_torch(path)
    elif head.startswith(_PICKLE):
        raise CheckpointError(
            f"{path} is a plain pickle, which can run code when it is read, so it is refused; where you trust it, save its tensors "
            "(for a file of detectron2's model zoo: its 'model' arrays through torch.from_numpy) with torch.save"
        )
    else:
        raise CheckpointError(f"{path} is no checkpoint ({_looks(head)}); give a file of torch.save or safetensors")
    return _archive(path, content)


def _looks(head: bytes) -> str:
    if not head:
        return "it is empty"
    text = head[:24].decode("ascii", "replace")
    return f"it begins with {text!r}"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file ({error})") from error


def _read_torch(path: Path) -> Any:
    try:
        _check_zip(path)
        with torch.serialization.safe_globals(list(_LOGS)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, str(error))) from error
    except Exception as error:  # whatever a reader of damaged bytes runs into
        raise CheckpointError(f"{path} is truncated or damaged ({' '.join(str(error).split())[:120]})") from error


def _check_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
    if any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(f"{path} is a TorchScript program, not a state dict; save one with: torch.save(model.state_dict(), ...)")
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(f"{path} is a zip file but no checkpoint of torch.save")


def _refusal(path: Path, message: str) -> str:
    named = re.search(r"GLOBAL (\S+)", message)
    what = f"holds a Python object ({named[1]})" if named else "is damaged or holds Python objects"
    return (
        f"{path} {what}, which can run code when it is read, so it is refused; where you trust the file, save its weights alone with: "
        "torch.save(model.state_dict(), ...)"
    )


def _archive(path: Path, content: Any) -> Archive:
    meta: dict[str, Any] = {}
    for _ in range(3):  # a state dict may lie in a wrapper in a wrapper
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{path} holds a {type(content).__name__}, not a state dict; save one with torch.save(model.state_dict(), ...)"
            )
        inner = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        meta |= {str(key): value for key, value in content.items() if key != inner and not isinstance(value, Tensor)}
        content = content[inner]
    tensors = {str(name): _plain(value) for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; its entries: {', '.join(map(str, list(content)[:5])) or 'none'}")
    unprintable = [name for name in tensors if not name.isprintable()]
    if unprintable:
        raise CheckpointError(f"{path} has names of entries that are no text ({unprintable[0]!r}); it is damaged")
    _check_finite(path, tensors)
    return Archive(path, _without_prefix(tensors), meta)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    spoiled = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())]
    if spoiled:
        raise CheckpointError(f"{path} holds numbers that are not finite in {len(spoiled)} tensors (first: {spoiled[0]}); it is damaged")


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in range(3):
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
