from hypothesis import given
from hypothesis import strategies as st

from jdnas.search.points import Point, front_of, within

POINTS = {0: (0.3, 5.0), 1: (0.3, 4.0), 2: (0.4, 6.0), 3: (0.35, 6.5), 4: (0.1, 1.0), 5: (0.3, 4.0)}
SOME = [Point(number, "8x8", cost, ap) for number, (ap, cost) in POINTS.items()]


def test_the_front_by_hand() -> None:
    assert [point.number for point in front_of(SOME)] == [4, 1, 2]


def test_ap_within_a_cost_by_hand() -> None:
    front = front_of(SOME)
    assert [None if (found := within(front, cost)) is None else found.number for cost in (0.9, 1.0, 3.9, 4.0, 6.0, 99.0)] == [
        None, 4, 4, 1, 2, 2
    ]  # fmt: skip


@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(0, 1)), min_size=1), st.floats(0.1, 9))
def test_nothing_left_out_of_the_front_is_better(values: list[tuple[float, float]], limit: float) -> None:
    points = [Point(number, "8x8", cost, ap) for number, (cost, ap) in enumerate(values)]
    front = front_of(points)
    assert all(any(kept.cost <= point.cost and kept.ap >= point.ap for kept in front) for point in points)
    best = max((point.ap for point in points if point.cost <= limit), default=None)
    found = within(front, limit)
    assert (None if found is None else found.ap) == best
