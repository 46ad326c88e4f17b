"""The subnet space of the elastic teacher pool (Joint-DetNAS, section 3.1.3)."""

import math
import random
from dataclasses import dataclass, replace
from typing import TypeVar

from jdnas.presets import round_width
from jdnas.spec import DetectorSpec, Stage
from jdnas.teacher.settings import PoolSettings

WIDTH_STEP = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Choice:
    """One subnet: blocks per stage, width factor per stage, width factor of the neck."""

    depths: tuple[int, ...]
    factors: tuple[float, ...]
    neck: float


@dataclass(frozen=True, slots=True)
class SubnetSpace:
    """All subnets with a depth in [min, max] and a width factor in `factors` per stage and neck, around the widths of `unit`."""

    unit: DetectorSpec
    min_depths: tuple[int, ...]
    max_depths: tuple[int, ...]
    factors: tuple[float, ...]

    @property
    def largest(self) -> DetectorSpec:
        """The super-net."""
        return self.spec_of(Choice(self.max_depths, (max(self.factors),) * len(self.max_depths), max(self.factors)))

    @property
    def smallest(self) -> DetectorSpec:
        """The subnet with every depth and width at its minimum."""
        return self.spec_of(Choice(self.min_depths, (min(self.factors),) * len(self.min_depths), min(self.factors)))

    def size(self, resolutions: int = 1) -> int:
        """Count the subnets times resolutions; the paper's "about 765,000" is 264 depths x 3^6 widths x 4 resolutions."""
        depths = math.prod(high - low + 1 for low, high in zip(self.min_depths, self.max_depths, strict=True))
        widths = math.prod(len(self.factors) for _ in range(len(self.max_depths) + 1))
        return depths * widths * resolutions

    def _stage(self, index: int, depth: int, factor: float) -> Stage:
        unit = self.unit.stages[index]
        inner = [round_width(unit.inner[min(position, unit.depth - 1)] * factor, WIDTH_STEP) for position in range(depth)]
        if index == 0 and self.unit.traits.first_block_unexpanded:
            inner[0] = self.unit.stem
        return Stage(round_width(unit.width * factor, WIDTH_STEP), tuple(inner))

    def spec_of(self, choice: Choice) -> DetectorSpec:
        """Return the spec of a subnet; widths are rounded to multiples of 8."""
        pairs = zip(choice.depths, choice.factors, strict=True)
        stages = tuple(self._stage(index, depth, factor) for index, (depth, factor) in enumerate(pairs))
        stem = stages[0].width if self.unit.traits.tied_stem else self.unit.stem
        return replace(self.unit, stem=stem, stages=stages, neck=round_width(self.unit.neck * choice.neck, WIDTH_STEP))

    def sample(self, rng: random.Random) -> DetectorSpec:
        """Draw a subnet uniformly over choices."""
        depths = tuple(rng.randint(low, high) for low, high in zip(self.min_depths, self.max_depths, strict=True))
        factors = tuple(rng.choice(self.factors) for _ in depths)
        return self.spec_of(Choice(depths, factors, rng.choice(self.factors)))

    def choice_of(self, spec: DetectorSpec) -> Choice:
        """Return the choice that gives `spec`; a ValueError says that it is no subnet of this space."""
        factors = [
            self._factor(f"stage {index}", [f for f in self.factors if self._stage(index, stage.depth, f) == stage])
            for index, stage in enumerate(spec.stages)
        ]
        neck = self._factor("neck", [f for f in self.factors if round_width(self.unit.neck * f, WIDTH_STEP) == spec.neck])
        return Choice(spec.depths, tuple(factors), neck)

    def _factor(self, part: str, fitting: list[float]) -> float:
        if not fitting:
            raise ValueError(f"the widths of {part} are not in this space: factors {self.factors}")
        return fitting[0]

    def neighbours(self, spec: DetectorSpec) -> list[DetectorSpec]:
        """Return the subnets that differ from `spec` in one stage's depth by one, or in one width by one step."""
        choice = self.choice_of(spec)
        factors = sorted(self.factors)
        found = []
        for index, (depth, low, high) in enumerate(zip(choice.depths, self.min_depths, self.max_depths, strict=True)):
            for new in (depth - 1, depth + 1):
                if low <= new <= high:
                    found.append(replace(choice, depths=_with(choice.depths, index, new)))
            for new_factor in _steps(factors, choice.factors[index]):
                found.append(replace(choice, factors=_with(choice.factors, index, new_factor)))
        found += [replace(choice, neck=new_factor) for new_factor in _steps(factors, choice.neck)]
        return [new for new in map(self.spec_of, found) if new != spec]

    def mutate(self, spec: DetectorSpec, rng: random.Random) -> DetectorSpec | None:
        """Change the depth or width of one stage (or the neck's width) by one step; None where the space has one subnet."""
        options = self.neighbours(spec)
        return rng.choice(options) if options else None

    def released(self, depth_share: float, widths: tuple[float, ...]) -> "SubnetSpace":
        """Return the part of the space that a phase of progressive shrinking has released."""
        low = tuple(high - round(depth_share * (high - small)) for small, high in zip(self.min_depths, self.max_depths, strict=True))
        return replace(self, min_depths=low, factors=widths)


def _with(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _steps(factors: list[float], current: float) -> list[float]:
    place = factors.index(current)
    return [factors[i] for i in (place - 1, place + 1) if 0 <= i < len(factors)]


def make_space(base: DetectorSpec, settings: PoolSettings) -> SubnetSpace:
    """Return the space around a base detector: its widths times the factors, its depths with some blocks more or fewer."""
    low = tuple(max(1, depth - settings.fewer_depth) for depth in base.depths)
    high = tuple(depth + settings.extra_depth for depth in base.depths)
    return SubnetSpace(base, low, high, tuple(sorted(settings.widths)))
