"""The pool on disk and in memory: a subnet space, the shared state, and teachers extracted from it."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jdnas.distill.teacher import half_precision
from jdnas.errors import CheckpointError, ConfigError, InputError
from jdnas.models.bound import materialize
from jdnas.models.detector import Detector, build
from jdnas.models.weights import State, shapes_of
from jdnas.spec import DetectorSpec
from jdnas.teacher.calibrate import recalibrate
from jdnas.teacher.space import SubnetSpace
from jdnas.training.checkpoint import load_detector, load_tensors, save_detector, save_tensors

POOL_VERSION = 2
TEACHERS_IN_MEMORY = 4
RUNNING = (".running_mean", ".running_var")
SizeHW = tuple[int, int]


@dataclass(frozen=True)
class Calibration:
    """Where BN statistics come from: `images()` gives normalized `[B, 3, H, W]` batches, `count` training images of `size_hw` in all."""

    size_hw: SizeHW
    count: int
    images: Callable[[], Iterable[Tensor]]

    @property
    def key(self) -> str:
        """What names the statistics beside the subnet and the pool."""
        return f"{self.size_hw[1]}x{self.size_hw[0]}_{self.count}"


@dataclass
class TeacherPool:
    """A trained pool. Teachers are cut on demand, their BN statistics recomputed for a resolution, and shared while in use.

    A teacher's weights are in memory once, whatever the number of students, threads and resolutions that use it. Statistics are
    kept in `statistics_folder` too (None: not at all), by pool version, subnet and resolution.
    """

    space: SubnetSpace
    state: State
    classes: tuple[str, ...]
    statistics_folder: Path | None = None
    _teachers: OrderedDict[tuple[str, str, bool], dict[str, Detector]] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @cached_property
    def version(self) -> str:
        """Twelve hex digits of the trained weights: statistics of another training are never taken for this one's."""
        digest = hashlib.sha256()
        for name in sorted(self.state):
            digest.update(name.encode())
            digest.update(self.state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]

    def extract(self, spec: DetectorSpec, calibration: Calibration, device: torch.device, *, half: bool = False) -> Detector:
        """Return the teacher of `spec` in evaluation mode, with BN statistics of `calibration`; its weights are those of the pool.

        `half` gives it with weights in bfloat16, to be called under autocast. A ConfigError says that the pool has no such subnet.
        """
        self.space.choice_of(spec)
        with self._lock:
            owner = (spec.key, str(device), half)
            known = self._teachers.setdefault(owner, {})
            self._teachers.move_to_end(owner)
            while len(self._teachers) > TEACHERS_IN_MEMORY:
                self._teachers.popitem(last=False)
            if calibration.key not in known:
                statistics = self._statistics(spec, calibration, device)
                first = next(iter(known.values()), None)
                known[calibration.key] = self._new(spec, device, half) if first is None else _twin(first)
                known[calibration.key].load_state_dict(statistics, strict=False)
            return known[calibration.key]

    def _new(self, spec: DetectorSpec, device: torch.device, half: bool) -> Detector:
        teacher = materialize(spec, self.state, device).to(memory_format=torch.channels_last)
        return half_precision(teacher) if half else teacher

    def _statistics(self, spec: DetectorSpec, calibration: Calibration, device: torch.device) -> State:
        """Return a teacher's running means and variances, from disk or computed in full precision."""
        path = None
        if self.statistics_folder is not None:
            path = self.statistics_folder / self.version / f"{spec.key}_{calibration.key}.safetensors"
            if path.exists() and (kept := _read_statistics(path, spec)):
                return kept
        found = _running(recalibrate(self._new(spec, device, half=False), calibration.images()).state_dict())
        if path is not None:
            save_tensors(path, found)
        return found

    def save(self, stem: Path, meta: Mapping[str, Any]) -> None:
        """Write the pool as a detector of its largest spec plus the space."""
        save_detector(stem, self.space.largest, self.state, {**meta, "pool": self.header()})

    def header(self) -> dict[str, Any]:
        """Return what `load_pool` reads beside the weights."""
        space = self.space
        return {
            "version": POOL_VERSION, "unit": space.unit.to_dict(), "min_depths": space.min_depths, "max_depths": space.max_depths,
            "factors": space.factors, "elastic_stem": space.elastic_stem, "classes": list(self.classes),
        }  # fmt: skip


def _running(state: Mapping[str, Tensor]) -> State:
    return {name: tensor for name, tensor in state.items() if name.endswith(RUNNING)}


def _read_statistics(path: Path, spec: DetectorSpec) -> State | None:
    """Read kept statistics; None where the file is damaged or does not fit, so that they are computed again."""
    try:
        kept = load_tensors(path)
    except CheckpointError:
        return None
    shapes = {name: shape for name, shape in shapes_of(spec).items() if name.endswith(RUNNING)}
    return kept if {name: tensor.shape for name, tensor in kept.items()} == shapes else None


def _twin(teacher: Detector) -> Detector:
    """Return a detector that shares the weights of `teacher` and has running statistics of its own."""
    state = teacher.state_dict()
    own = {name: tensor.clone() if name.endswith(RUNNING) or not tensor.is_floating_point() else tensor for name, tensor in state.items()}
    twin = build(teacher.spec, device="meta")
    twin.load_state_dict(own, assign=True)
    return twin.eval().requires_grad_(False)


def load_pool(stem: Path, classes: tuple[str, ...] | None = None) -> TeacherPool:
    """Read a pool; a CheckpointError says when the file is no pool, is damaged, or was trained for other classes."""
    try:
        spec, state, meta = load_detector(stem)
    except ConfigError as error:
        raise CheckpointError(f"{stem}.json: {error}; train the pool again with: jdnas teacher train") from error
    pool = meta.get("pool")
    if not isinstance(pool, dict) or pool.get("version") != POOL_VERSION:
        got = pool.get("version") if isinstance(pool, dict) else None
        raise CheckpointError(f"{stem}.json is no teacher pool of version {POOL_VERSION} (got {got}); train one with: jdnas teacher train")
    try:
        unit, found = DetectorSpec.from_dict(pool["unit"]), tuple(str(name) for name in pool["classes"])
        space = SubnetSpace(unit, tuple(pool["min_depths"]), tuple(pool["max_depths"]), tuple(pool["factors"]), bool(pool["elastic_stem"]))
        fits = space.largest == spec
    except (KeyError, TypeError, IndexError, ValueError, InputError) as error:
        raise CheckpointError(f"{stem}.json: the pool's space is malformed ({error}); train the pool again") from error
    if not fits:
        raise CheckpointError(f"{stem}.json: the pool's space does not lead to the spec of its weights; train the pool again")
    if classes is not None and found != classes:
        raise CheckpointError(f"the pool at {stem} was trained for classes {list(found)}, the data has {list(classes)}")
    return TeacherPool(space, state, found, stem.parent / "statistics")
