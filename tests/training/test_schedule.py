import pytest

from jdnas.errors import ConfigError
from jdnas.training.schedule import SCHEDULES, learning_rate, schedule_named, steps_of
from jdnas.training.settings import TrainSettings


def test_schedule_warms_up_and_decays_to_the_floor() -> None:
    settings = TrainSettings(lr=1.0, warmup=0.1, final_lr_factor=0.01)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == pytest.approx(1.0) and rates.index(max(rates)) == 10
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert 0.01 < rates[-1] < 0.02


@pytest.mark.parametrize("name", SCHEDULES)
def test_named_schedules_step_down_twice(name: str) -> None:
    settings = TrainSettings(**schedule_named(name))
    epochs = int(settings.epochs)
    rates = [learning_rate(step, epochs * 100, settings) for step in range(epochs * 100)]
    first, second = (800, 1100) if epochs == 12 else (1600, 2200)
    assert rates[int(settings.warmup * len(rates)) + 1] == 0.02
    assert rates[first - 1] == 0.02 and rates[first] == pytest.approx(0.002) and rates[second - 1] == pytest.approx(0.002)
    assert rates[second] == rates[-1] == pytest.approx(0.0002)
    assert (min(settings.scales) < 1) == name.endswith("+ms") and max(settings.scales) == 1


def test_unknown_schedule() -> None:
    with pytest.raises(ConfigError, match=r"unknown schedule '3x'; known: 1x, 1x\+ms, 2x, 2x\+ms"):
        schedule_named("3x")


def test_steps_of_epochs() -> None:
    assert steps_of(2, 10, 4) == 5
    assert steps_of(0.01, 10, 4) == 1


def test_a_longer_training_averages_over_the_same_share() -> None:
    short = TrainSettings(epochs=2, ema=0.98)
    assert short.lasting(20).epochs == 20 and short.lasting(20).ema == pytest.approx(0.998)
    assert TrainSettings(epochs=2).lasting(20).ema == 0.0 == TrainSettings(epochs=20, ema=0.5).lasting(1).ema
