"""Names of subnets, for people: `largest`, `r50`, `d=3-4-6-3,w=1.25`."""

from jdnas.errors import ConfigError
from jdnas.presets import NAMES, preset
from jdnas.spec import DetectorSpec
from jdnas.teacher.space import Choice, SubnetSpace

FORM = (
    "largest, smallest, middle, a base's name such as r50, or its parts such as d=3-4-6-3,w=1.0-1.25-1.0-1.0,n=1.25 "
    "(blocks per stage; width factors per stage or one for all; of the neck)"
)


def middle(space: SubnetSpace) -> DetectorSpec:
    """Return the subnet with depths and width factors in the middle of their ranges, rounded down."""
    depths = tuple((low + high) // 2 for low, high in zip(space.min_depths, space.max_depths, strict=True))
    factors = sorted(space.factors)
    return space.spec_of(space.uniform(depths, factors[(len(factors) - 1) // 2]))


def subnet_from_text(space: SubnetSpace, text: str) -> DetectorSpec:
    """Return the subnet that `text` names (see `FORM`); a ConfigError says why there is none.

    A base's name means its depths at width factor 1, or the smallest factor where 1 is none of the space's.
    """
    ends = {"largest": space.largest, "smallest": space.smallest, "middle": middle(space)}
    if text in ends:
        return ends[text]
    factor = 1.0 if 1.0 in space.factors else min(space.factors)
    if text in NAMES:
        named = preset(text, space.unit.num_classes)
        if named.family != space.unit.family:
            raise ConfigError(f"{text!r} is a {named.family}, and this pool's subnets are {space.unit.family}")
        found = space.spec_of(space.uniform(named.depths, factor))
    else:
        found = space.spec_of(_choice(space, text, factor))
    space.choice_of(found)
    return found


def _choice(space: SubnetSpace, text: str, factor: float) -> Choice:
    stages = len(space.max_depths)
    try:
        parts = dict(part.split("=", 1) for part in text.split(","))
        if not set(parts) <= {"d", "w", "n"} or "d" not in parts:
            raise ValueError(text)
        depths = tuple(int(depth) for depth in parts["d"].split("-"))
        factors = tuple(float(width) for width in parts.get("w", str(factor)).split("-"))
        factors = factors * stages if len(factors) == 1 else factors
        neck = float(parts.get("n", factors[0] if len(set(factors)) == 1 else factor))
    except ValueError as error:
        raise ConfigError(f"{text!r} names no subnet; write {FORM}") from error
    if len(depths) != stages or len(factors) != stages:
        raise ConfigError(f"{text!r} needs {stages} depths and 1 or {stages} width factors, got {len(depths)} and {len(factors)}")
    unknown = sorted({*factors, neck} - set(space.factors))
    if unknown:
        raise ConfigError(f"width factor {unknown[0]} of {text!r} is not in this pool; it has {', '.join(map(str, space.factors))}")
    if min(depths) < 1:
        raise ConfigError(f"{text!r} has a stage without blocks; this pool has depths {space.min_depths} to {space.max_depths}")
    return Choice(depths, factors, neck)


def describe_subnet(space: SubnetSpace, spec: DetectorSpec) -> str:
    """Return the name of a subnet in the form that `subnet_from_text` reads."""
    choice = space.choice_of(spec)
    depths = "-".join(map(str, choice.depths))
    factors = str(choice.factors[0]) if len(set(choice.factors)) == 1 else "-".join(map(str, choice.factors))
    return f"d={depths},w={factors},n={choice.neck}"
