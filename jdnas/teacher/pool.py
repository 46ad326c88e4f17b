"""The pool on disk and in memory: a subnet space, the shared state, and teachers extracted from it."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jdnas.errors import CheckpointError
from jdnas.models.bound import materialize
from jdnas.models.detector import Detector
from jdnas.models.weights import State
from jdnas.spec import DetectorSpec
from jdnas.teacher.calibrate import recalibrate
from jdnas.teacher.space import SubnetSpace
from jdnas.training.checkpoint import load_detector, save_detector

POOL_VERSION = 1
TEACHERS_IN_MEMORY = 4


@dataclass
class TeacherPool:
    """A trained pool. Teachers are cut on demand, their BN statistics recomputed, and kept in memory while in use."""

    space: SubnetSpace
    state: State
    classes: tuple[str, ...]
    _teachers: OrderedDict[str, Detector] = field(default_factory=OrderedDict)

    def extract(self, spec: DetectorSpec, images: Callable[[], Iterable[Tensor]], device: torch.device) -> Detector:
        """Return the teacher of `spec` in evaluation mode; `images()` gives `[B, 3, H, W]` batches for its BN statistics."""
        if spec.key not in self._teachers:
            teacher = recalibrate(materialize(spec, self.state, device), images())
            self._teachers[spec.key] = teacher
            while len(self._teachers) > TEACHERS_IN_MEMORY:
                self._teachers.popitem(last=False)
        self._teachers.move_to_end(spec.key)
        return self._teachers[spec.key]

    def save(self, stem: Path, meta: dict[str, Any]) -> None:
        """Write the pool as a detector of its largest spec plus the space."""
        space = {"min_depths": self.space.min_depths, "max_depths": self.space.max_depths, "factors": self.space.factors}
        pool = {"version": POOL_VERSION, "unit": self.space.unit.to_dict(), **space, "classes": self.classes}
        save_detector(stem, self.space.largest, self.state, {**meta, "pool": pool})


def load_pool(stem: Path, classes: tuple[str, ...] | None = None) -> TeacherPool:
    """Read a pool; a CheckpointError says when the file is no pool, is damaged, or was trained for other classes."""
    _, state, meta = load_detector(stem)
    pool = meta.get("pool")
    if not isinstance(pool, dict) or pool.get("version") != POOL_VERSION:
        raise CheckpointError(f"{stem}.json is no teacher pool of version {POOL_VERSION}; train one with: jdnas teacher train")
    if classes is not None and tuple(pool["classes"]) != classes:
        raise CheckpointError(f"the pool at {stem} was trained for classes {pool['classes']}, the data has {list(classes)}")
    unit = DetectorSpec.from_dict(pool["unit"])
    space = SubnetSpace(unit, tuple(pool["min_depths"]), tuple(pool["max_depths"]), tuple(pool["factors"]))
    return TeacherPool(space, state, tuple(pool["classes"]))
