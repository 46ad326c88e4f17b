"""Third-party priors: a formula of few coefficients in place of a table, for devices that nobody here has measured.

A prior knows convolutions and, as 1x1 convolutions over their rows, fully connected layers. Proposals, NMS, RoIAlign and decoding are
not in it. Every figure from a prior bears its label.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np

from jdnas.atomic import write_atomically
from jdnas.errors import TargetError
from latency.blocks import Floats, kernel_and_stride
from latency.prior_rows import NearRows
from latency.targets import Target

PRIOR_LABEL = "third-party prior"
PRIOR_VERSION = 1
IMAGE_CHANNELS = 3
WIDTH_STEP = 8
DEGREE = 3
_OF_IMAGES = " of images"
_ROW_LENGTH = 7
Calls = Sequence[tuple[tuple[int, ...], bool]]  # sizes of a block, and whether an addition is fused into it


@dataclass(frozen=True, slots=True)
class FitError:
    """Relative errors on rows that the fit did not see: mean, median and 90th percentile, and how far their sum is off."""

    rows: int
    mape: float
    median: float
    p90: float
    of_sum: float


@dataclass(frozen=True)
class ConvModel:
    """Latency of one family: a sum of non-negative `terms` times the exponential of a polynomial in the logarithms of the sizes.

    `box` bounds each variable of the polynomial to what was measured, so that only the sum of terms extrapolates.
    """

    terms: tuple[float, ...]
    box: tuple[tuple[float, float], ...]
    residual: tuple[float, ...]
    rows: int
    error: FitError

    def predict(self, family: str, calls: Calls) -> Floats:
        """Return milliseconds of each call."""
        bases = terms_of(family, calls) @ np.array(self.terms)
        place = polynomial(variables_of(family, calls), self.box)
        return np.asarray(bases * np.exp(place @ np.array(self.residual)))


@dataclass(frozen=True)
class Prior:
    """What is known of a target from others: models per family, where they come from, and how well they fit held-out rows.

    `lineage` names file, fingerprint, source, licence and counts of rows. `rows` are those of the library, where they were kept: per
    model, (reads, writes, height, width, calls, addition, milliseconds); answers are then pulled to the nearest ones.
    """

    target: str
    runtime: str
    precision: str
    batch: int
    lineage: dict[str, Any]
    error: FitError
    models: dict[str, ConvModel] = field(default_factory=dict)
    rows: dict[str, list[list[float]]] = field(default_factory=dict)

    @cached_property
    def _near(self) -> dict[str, NearRows]:
        return {name: near_rows(name, self.models[name], rows) for name, rows in self.rows.items()}

    def latency_ms(self, family: str, calls: Calls) -> Floats:
        """Return milliseconds of calls of one family; a TargetError for a family that the prior does not know."""
        name = model_name(family, calls[0][0])
        if name not in self.models:
            known = ", ".join(sorted(model for model in self.models if not model.endswith(_OF_IMAGES)))
            raise TargetError(f"the {PRIOR_LABEL} of {self.target!r} has no convolutions of kind {name!r} (it has: {known}); "
                              f"measure the device with: jdnas latency measure --target {self.target}")  # fmt: skip
        found = self.models[name].predict(family, calls)
        return found * self._near[name].factors(variables_of(family, calls)) if name in self.rows else found

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"version": PRIOR_VERSION, "label": PRIOR_LABEL, **asdict(self)}

    def save(self, path: Path) -> None:
        """Write the prior; it appears whole or not at all."""
        write_atomically(path, (json.dumps(self.to_dict(), separators=(",", ":")) + "\n").encode())


def model_name(family: str, sizes: tuple[int, ...]) -> str:
    """Return the model that a block belongs to: convolutions of images have one of their own, for 3 channels fill no tile."""
    name = "conv 1x1/1" if family == "linear" else family
    return name + _OF_IMAGES if name.startswith("conv") and sizes[0] <= IMAGE_CHANNELS else name


def near_rows(name: str, model: ConvModel, rows: Sequence[Sequence[float]]) -> NearRows:
    """Return the rows of a model as neighbours of what is asked for."""
    family = name.removesuffix(_OF_IMAGES)
    calls = [(tuple(int(n) for n in row[:5]), bool(row[5])) for row in rows]
    measured = np.array([row[6] for row in rows])
    return NearRows(variables_of(family, calls), np.log(measured / model.predict(family, calls)))


def terms_of(family: str, calls: Calls) -> Floats:
    """Return what the time grows with: 1, length of a dot product, multiply-adds, inputs, outputs, added inputs, weights."""
    kernel, stride = kernel_and_stride(family)
    reads, writes, positions, add = _columns(calls)
    paid = np.where(reads <= IMAGE_CHANNELS, reads, -(-reads // WIDTH_STEP) * WIDTH_STEP)
    fan_in = kernel**2 * (np.ones_like(paid) if family.startswith("depthwise") else paid)
    outputs = positions * writes
    return np.stack((np.ones_like(paid), fan_in, outputs * fan_in, positions * stride**2 * reads, outputs, outputs * add,
                     fan_in * writes), 1)  # fmt: skip


def variables_of(family: str, calls: Calls) -> Floats:
    """Return the variables of the polynomial: logarithms of positions, of widths written and read, and the addition."""
    reads, writes, positions, add = _columns(calls)
    columns = [np.log2(positions), np.log2(writes), add]
    if not family.startswith("depthwise") and reads.max() > IMAGE_CHANNELS:
        columns.append(np.log2(reads))
    return np.stack(columns, 1)


def polynomial(variables: Floats, box: Sequence[tuple[float, float]]) -> Floats:
    """Return all products of up to `DEGREE` variables, each scaled from its bounds to [-1, 1] and held there."""
    low, high = np.array(box).T
    scaled = np.clip(2 * (variables - low) / np.maximum(high - low, 1e-9) - 1, -1, 1)
    padded = np.concatenate((np.ones((len(scaled), 1)), scaled), 1)
    return np.asarray(padded[:, _products(scaled.shape[1])].prod(2))


@lru_cache
def _products(count: int) -> Any:
    """Return, for every product of up to `DEGREE` of `count` variables, the columns to multiply; column 0 is one."""
    return np.array(list(combinations_with_replacement(range(count + 1), DEGREE)))


def read_prior(path: Path) -> Prior:
    """Read a prior; a TargetError says what is wrong with the file."""
    again = "import it again with: jdnas latency import-conv-library"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TargetError(f"prior {path} is truncated or not JSON: {error}; {again}") from error
    if not isinstance(data, dict) or data.get("version") != PRIOR_VERSION:
        got = data.get("version") if isinstance(data, dict) else type(data).__name__
        raise TargetError(f"prior {path} has version {got!r}; this jdnas reads version {PRIOR_VERSION}; {again}")
    try:
        return _from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TargetError(f"prior {path} is malformed: {error}; {again}") from error


def find_prior(target: Target) -> tuple[Prior, Path] | None:
    """Return the prior that the user imported for a target, else the one that came with jdnas, else None."""
    for path in target.prior_paths:
        if path.is_file():
            prior = read_prior(path)
            got, wanted = (prior.target, prior.precision, prior.batch), (target.name, target.precision, target.batch)
            if got != wanted:
                raise TargetError(f"prior {path} is of {' '.join(map(str, got))}, not of {' '.join(map(str, wanted))}")
            return prior, path
    return None


def _from_dict(data: Mapping[str, Any]) -> Prior:
    models = {}
    for name, model in data["models"].items():
        box = tuple((float(low), float(high)) for low, high in model["box"])
        numbers = [tuple(map(float, model[key])) for key in ("terms", "residual")]
        products = polynomial(np.zeros((1, len(box))), box).shape[1]
        if not np.isfinite(np.concatenate(numbers)).all() or min(numbers[0]) < 0 or len(numbers[1]) != products:
            raise ValueError(f"model {name!r} does not hold finite coefficients, non-negative terms and {products} products")
        models[name] = ConvModel(numbers[0], box, numbers[1], int(model["rows"]), FitError(**model["error"]))
    rows = {name: [_checked(name, row) for row in found] for name, found in data["rows"].items()}
    head = (data["target"], data["runtime"], data["precision"], int(data["batch"]))
    return Prior(*head, dict(data["lineage"]), FitError(**data["error"]), models, rows)


def _checked(name: str, row: list[float]) -> list[float]:
    if len(row) != _ROW_LENGTH or not np.isfinite(row).all() or min(*row[:5], row[6]) <= 0:
        raise ValueError(f"a row of {name!r} is {row} instead of {_ROW_LENGTH} positive numbers")
    return row


def _columns(calls: Calls) -> tuple[Floats, Floats, Floats, Floats]:
    sizes = np.array([call[0] for call in calls], float)
    add = np.array([call[1] for call in calls], float)
    return sizes[:, 0], sizes[:, 1], sizes[:, 2:].prod(1), add
