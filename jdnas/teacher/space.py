"""The subnet space of the elastic teacher pool (Joint-DetNAS, section 3.1.3)."""

import math
import random
from dataclasses import dataclass, replace
from typing import TypeVar

from jdnas.errors import ConfigError
from jdnas.presets import round_width, scale_stage
from jdnas.spec import DetectorSpec, Stage
from jdnas.teacher.settings import PoolSettings

WIDTH_STEP = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Choice:
    """One subnet: blocks per stage, width factor per stage, width factors of the neck and of the stem."""

    depths: tuple[int, ...]
    factors: tuple[float, ...]
    neck: float
    stem: float = 1.0


@dataclass(frozen=True, slots=True)
class SubnetSpace:
    """All subnets with a depth in [min, max] and a width factor in `factors` per stage and neck, around the widths of `unit`.

    The stem has a factor of its own where `elastic_stem` is set and the family does not tie it to the first stage.
    """

    unit: DetectorSpec
    min_depths: tuple[int, ...]
    max_depths: tuple[int, ...]
    factors: tuple[float, ...]
    elastic_stem: bool = False

    @property
    def has_elastic_stem(self) -> bool:
        """Whether the stem has a width factor of its own."""
        return self.elastic_stem and not self.unit.traits.tied_stem

    @property
    def _stems(self) -> tuple[float, ...]:
        return self.factors if self.has_elastic_stem else (1.0,)

    @property
    def largest(self) -> DetectorSpec:
        """The super-net."""
        return self.spec_of(self.uniform(self.max_depths, max(self.factors)))

    @property
    def smallest(self) -> DetectorSpec:
        """The subnet with every depth and width at its minimum."""
        return self.spec_of(self.uniform(self.min_depths, min(self.factors)))

    def uniform(self, depths: tuple[int, ...], factor: float) -> Choice:
        """Return the choice with one width factor everywhere."""
        return Choice(depths, (factor,) * len(depths), factor, factor if factor in self._stems else 1.0)

    def size(self, resolutions: int = 1) -> int:
        """Count the subnets times resolutions.

        The paper's "roughly 765,000" is 264 depths x 3^6 widths (stem, four stages, neck) x 4 resolutions = 769,824.
        """
        return math.prod(self._radices) * resolutions

    @property
    def _radices(self) -> tuple[int, ...]:
        """Options of every part of a choice, in the order in which `number_of` writes them."""
        depths = tuple(high - low + 1 for low, high in zip(self.min_depths, self.max_depths, strict=True))
        return (*depths, *(len(self.factors) for _ in range(len(depths) + 1)), len(self._stems))

    def number_of(self, spec: DetectorSpec) -> int:
        """Return the number of a subnet, from 0 to `size() - 1`; a ConfigError says that it is none of this space."""
        choice = self.choice_of(spec)
        digits = [depth - low for depth, low in zip(choice.depths, self.min_depths, strict=True)]
        digits += [self.factors.index(factor) for factor in (*choice.factors, choice.neck)] + [self._stems.index(choice.stem)]
        number = 0
        for digit, radix in zip(digits, self._radices, strict=True):
            number = number * radix + digit
        return number

    def choice_of_number(self, number: int) -> Choice:
        """Return the choice that `number_of` numbers so."""
        digits = []
        for radix in reversed(self._radices):
            number, digit = divmod(number, radix)
            digits.append(digit)
        digits.reverse()
        stages = len(self.max_depths)
        depths = tuple(low + digit for low, digit in zip(self.min_depths, digits[:stages], strict=True))
        factors = [self.factors[digit] for digit in digits[stages : 2 * stages + 1]]
        return Choice(depths, tuple(factors[:-1]), factors[-1], self._stems[digits[-1]])

    def _stem(self, choice: Choice) -> int:
        return round_width(self.unit.stem * choice.stem, WIDTH_STEP) if choice.stem != 1.0 else self.unit.stem

    def _stage(self, index: int, depth: int, factor: float, stem: int) -> Stage:
        unit = self.unit.stages[index]
        while unit.depth < depth:
            unit = unit.with_copy(unit.depth)
        while unit.depth > depth:
            unit = unit.without(unit.depth - 1)
        stage = scale_stage(self.unit, index, unit, factor, WIDTH_STEP)
        if index == 0 and self.unit.traits.first_block_unexpanded:
            stem = stage.width if self.unit.traits.tied_stem else stem
            stage = replace(stage, inner=(stem, *stage.inner[1:]))
        return stage

    def spec_of(self, choice: Choice) -> DetectorSpec:
        """Return the spec of a subnet; widths are rounded to multiples of 8 and to whole groups."""
        stem = self._stem(choice)
        pairs = zip(choice.depths, choice.factors, strict=True)
        stages = tuple(self._stage(index, depth, factor, stem) for index, (depth, factor) in enumerate(pairs))
        return replace(self.unit.with_stages(stages, stem=stem), neck=round_width(self.unit.neck * choice.neck, WIDTH_STEP))

    def sample(self, rng: random.Random) -> DetectorSpec:
        """Draw a subnet uniformly over choices."""
        depths = tuple(rng.randint(low, high) for low, high in zip(self.min_depths, self.max_depths, strict=True))
        factors = tuple(rng.choice(self.factors) for _ in depths)
        return self.spec_of(Choice(depths, factors, rng.choice(self.factors), rng.choice(self._stems)))

    def choice_of(self, spec: DetectorSpec) -> Choice:
        """Return the choice that gives `spec`; a ConfigError says why it is no subnet of this space."""
        self._check_rest(spec)
        factors = [
            self._factor(f"stage {index}", [f for f in self.factors if self._stage(index, stage.depth, f, spec.stem) == stage])
            for index, stage in enumerate(spec.stages)
        ]
        neck = self._factor("neck", [f for f in self.factors if round_width(self.unit.neck * f, WIDTH_STEP) == spec.neck])
        if self.unit.traits.tied_stem:
            return Choice(spec.depths, tuple(factors), neck)
        stems = [f for f in self._stems if self._stem(Choice((), (), neck, f)) == spec.stem]
        return Choice(spec.depths, tuple(factors), neck, self._factor("stem", stems))

    def _check_rest(self, spec: DetectorSpec) -> None:
        """Raise a ConfigError where family, classes, heads or depths are not those of the space."""
        if (spec.family, spec.num_classes) != (self.unit.family, self.unit.num_classes):
            mine, its = (f"{s.family} for {s.num_classes} classes" for s in (self.unit, spec))
            raise ConfigError(f"a {its} is no subnet of a pool of {mine}")
        if spec.head != self.unit.head:
            raise ConfigError("the heads of this spec are not those of the pool; take the pool's head settings")
        for index, (depth, low, high) in enumerate(zip(spec.depths, self.min_depths, self.max_depths, strict=True)):
            if not low <= depth <= high:
                what = "smaller" if depth < low else "larger"
                raise ConfigError(f"stage {index} with {depth} blocks is {what} than any subnet of this pool; it has {low} to {high}")

    def _factor(self, part: str, fitting: list[float]) -> float:
        if not fitting:
            raise ConfigError(f"the widths of {part} are not in this space: factors {', '.join(map(str, self.factors))}")
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
        if len(self._stems) > 1:
            found += [replace(choice, stem=new_factor) for new_factor in _steps(factors, choice.stem)]
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
    """Return the space around a base detector: its widths times the factors, its depths with some blocks more or fewer.

    A ConfigError says that the configured depths do not fit the family or leave the base out, which the pool grows from.
    """
    low = settings.min_depths or tuple(max(1, depth - settings.fewer_depth) for depth in base.depths)
    high = settings.max_depths or tuple(depth + settings.extra_depth for depth in base.depths)
    if not len(low) == len(high) == len(base.depths):
        raise ConfigError(f"pool depths {low} to {high} need one number per stage; a {base.family} has {len(base.depths)} stages")
    if any(a > b for a, b in zip(low, high, strict=True)):
        raise ConfigError(f"pool min_depths {low} exceed max_depths {high}; every stage needs min <= max")
    if any(a > b for a, b in zip(base.depths, high, strict=True)):
        raise ConfigError(f"pool max_depths {high} are below the base's depths {base.depths}; the pool grows from the base, so raise them")
    return SubnetSpace(base, low, high, tuple(sorted(settings.widths)), settings.elastic_stem)
