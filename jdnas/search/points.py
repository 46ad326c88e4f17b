"""Operating points: what is to be had at which cost."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """A detector at a resolution: its cost, and its AP on the images that the choice is made by."""

    number: int
    size: str
    cost: float
    ap: float


def front_of(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats in both cost and AP, by rising cost."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.ap)):
        if not front or point.ap > front[-1].ap:
            front.append(point)
    return front


def within(front: Sequence[Point], cost: float) -> Point | None:
    """Return the best point of a front that costs at most `cost`; None where all cost more."""
    return max((point for point in front if point.cost <= cost), key=lambda point: point.ap, default=None)
