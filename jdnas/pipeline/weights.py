"""Trained detectors that users name: files that jdnas wrote, or those of other projects, which are converted while they are read."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from jdnas.atomic import write_atomically
from jdnas.errors import CheckpointError, ConfigError
from jdnas.models.checkpoints import import_checkpoint
from jdnas.models.checkpoints.to_torchvision import state_to_torchvision, torchvision_call
from jdnas.models.weights import State
from jdnas.sizes import SizeHW
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import load_detector, read_json, save_detector, stem_of

TORCH_SUFFIXES = frozenset({".pth", ".pt"})
_HEADS = ("fpn.", "rpn.", "box_head")


@dataclass(frozen=True)
class WeightFile:
    """A detector read from a file.

    `fresh` entries of `state` are newly drawn, since the file has none. `classes` and `size_hw` (height, width) are empty or None
    where the file does not say. `lines` tell what the conversion did, and are empty for files of our own.
    """

    spec: DetectorSpec
    state: State
    fresh: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()
    size_hw: SizeHW | None = None
    lines: tuple[str, ...] = ()

    @property
    def has_heads(self) -> bool:
        """Whether the file holds a detector rather than a backbone alone."""
        return _has_heads(self.fresh)


@dataclass(frozen=True)
class AboutWeights:
    """What a `WeightFile` says beside its weights."""

    spec: DetectorSpec
    has_heads: bool
    classes: tuple[str, ...] = ()
    size_hw: SizeHW | None = None
    lines: tuple[str, ...] = ()


def _has_heads(fresh: Iterable[str]) -> bool:
    return not any(name.startswith(_HEADS) for name in fresh)


def is_own(path: Path) -> bool:
    """Tell whether a path names a detector that jdnas wrote: a .json with the spec stands beside the .safetensors."""
    if path.suffix == ".json":
        return True
    return path.suffix == ".safetensors" and (path.with_suffix(".json").exists() or not path.exists())


def open_weights(path: Path, *, config: Path | None = None, norm_eps: float | None = None) -> WeightFile:
    """Read a trained detector or backbone; a CheckpointError says what does not fit.

    `config` and `norm_eps` are those of `import_checkpoint` and only make sense for files of other projects.
    """
    if is_own(path):
        if config is not None or norm_eps is not None:
            raise ConfigError(f"{path} was written by jdnas; --config and --norm-eps are for files of other projects")
        spec, state, meta = load_detector(stem_of(path))
        size_hw = meta.get("size_hw")
        return WeightFile(
            spec, state, frozenset(meta.get("fresh", ())), tuple(meta.get("classes", ())), tuple(size_hw) if size_hw else None
        )
    read = import_checkpoint(path, config=config, norm_eps=norm_eps)
    return WeightFile(read.spec, read.state, read.fresh, read.classes, read.size_hw, tuple(read.report.lines()))


def about_weights(path: Path) -> AboutWeights:
    """Describe a weight file: one of ours by what stands beside it, another project's by reading it once."""
    return _about_own(path) if is_own(path) else _about_other(*_identity(path))


def _about_own(path: Path) -> AboutWeights:
    header = read_json(path.with_suffix(".json"))
    meta = header.get("meta") or {}
    spec, size_hw = DetectorSpec.from_dict(header.get("spec", {})), meta.get("size_hw")
    return AboutWeights(spec, _has_heads(meta.get("fresh", ())), tuple(meta.get("classes", ())), tuple(size_hw) if size_hw else None)


def check_trained(path: Path, classes: Sequence[str]) -> None:
    """Raise a CheckpointError where a file cannot detect these classes as it is: it lacks heads, or knows others.

    Names are compared where the file is ours; other projects' files do not always say theirs, or spell them in another way.
    """
    about = about_weights(path)
    remedy = "leave --trained (train_base=false) out, so that it is trained"
    if not about.has_heads:
        raise CheckpointError(f"{path} holds a backbone without detection heads; {remedy}")
    names = about.classes if is_own(path) else ()
    if about.spec.num_classes != len(classes) or (names and names != tuple(classes)):
        known = ", ".join(names) or f"{about.spec.num_classes} classes"
        raise CheckpointError(f"{path} knows {known}; the data has {len(classes)} classes: {', '.join(classes)}; {remedy}")


def _identity(path: Path) -> tuple[Path, int, int]:
    status = path.stat() if path.is_file() else None  # reading says what is wrong with anything else
    return path, status.st_mtime_ns if status else 0, status.st_size if status else 0


@lru_cache(maxsize=4)
def _about_other(path: Path, modified_ns: int, size: int) -> AboutWeights:
    """Read a foreign file for all but its weights; a run asks several times, and the file is large."""
    read = open_weights(path)
    return AboutWeights(read.spec, read.has_heads, read.classes, read.size_hw, read.lines)


def import_weights(path: Path, out: Path, *, config: Path | None, norm_eps: float | None) -> list[str]:
    """Write a file of another project as `out`.safetensors and `out`.json; return the report's lines."""
    stem = stem_of(out)
    if is_own(path):
        raise CheckpointError(f"{path} is a detector of jdnas already; use it as it is")
    read = open_weights(path, config=config, norm_eps=norm_eps)
    size_hw = {} if read.size_hw is None else {"size_hw": list(read.size_hw)}
    classes = {"classes": list(read.classes)} if read.classes else {}
    save_detector(stem, read.spec, read.state, {"origin": read.lines[0], "fresh": sorted(read.fresh), **size_hw, **classes})
    return [
        *read.lines,
        f"{stem}.safetensors written" + ("" if read.has_heads else "; it has no detection heads yet: train it"),
    ]


def write_for_torchvision(read: WeightFile, out: Path) -> str:
    """Write a detector as a state dict of torchvision's Faster R-CNN; return what loads it."""
    if not read.has_heads:
        raise CheckpointError("a backbone without detection heads cannot be written as a detector; train it first")
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in state_to_torchvision(read.state, read.spec).items()}, buffer)
    write_atomically(out, buffer.getvalue())
    call = torchvision_call(read.spec)
    if call is None:
        return f"{out}: in torchvision's layout; its widths are none of torchvision's constructors, so build the backbone with these"
    return f"{out}: a state dict of {call}"
