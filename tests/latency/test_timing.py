import pytest

from latency.timing import Timing, flat, sample_in_turns, time_call, time_interleaved, timing_from_samples


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def taking(self, *seconds):
        durations = list(seconds)

        def call():
            self.now += durations.pop(0) if len(durations) > 1 else durations[0]

        return call


def test_summary():
    assert timing_from_samples([4.0, 1.0, 3.0, 2.0, 5.0]) == Timing(3.0, pytest.approx(1.2), pytest.approx(4.8), 5)


def test_warmup_is_not_counted():
    clock = Clock()
    timing = time_call(clock.taking(9.0, 9.0, 0.25), seconds=2.0, warmup=2, clock=clock)
    assert timing == Timing(250.0, 250.0, 250.0, 8)


def test_least_samples():
    clock = Clock()
    assert time_call(clock.taking(10.0), seconds=1.0, warmup=0, least=3, clock=clock).repeats == 3


def test_interleaved_calls_take_turns():
    clock, order = Clock(), []

    def call(name, seconds):
        def run():
            order.append(name)
            clock.now += seconds

        return run

    fast, slow = time_interleaved([call("a", 0.5), call("b", 1.0)], seconds=3.0, warmup=0, least=1, clock=clock)
    assert order == ["a", "b"] * 4
    assert (fast.median_ms, slow.median_ms) == (500.0, 1000.0)


def test_scaled():
    assert Timing(4.0, 2.0, 6.0, 9).scaled(0.5) == Timing(2.0, 1.0, 3.0, 9)


def test_turns_are_bursts_and_their_order_alternates():
    clock, order = Clock(), []

    def call(name, seconds):
        def run():
            order.append(name)
            clock.now += seconds

        return run

    turns = sample_in_turns([call("a", 0.25), call("b", 1.0)], seconds=2.0, warmup=0, least=1, burst_s=0.5, clock=clock)
    assert order[:6] == ["a", "a", "b", "b", "a", "a"]
    assert turns[0] == [[250.0, 250.0]] * len(turns[0])
    assert all(turn == [1000.0] for turn in turns[1])
    assert len(turns[0]) == len(turns[1])
    assert flat(turns[0]) == [250.0] * (2 * len(turns[0]))
