from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jdnas.data.records import Record
from jdnas.data.sampling import epoch_order, repeat_factors


def record(*labels: int, crowd: bool = False) -> Record:
    count = len(labels)
    return Record(
        1, Path("a.png"), 9, 9, np.ones((count, 4), np.float32), np.array(labels, np.int64), np.full(count, crowd), np.ones(count)
    )


def test_factors_worked_by_hand():
    records = [*(record(1, 1) for _ in range(15)), record(1, 2), record(), record(2, crowd=True), record(3), record(3)]
    factors = repeat_factors(records, 0.2)  # class 1 on 16 of 20 images, 2 on 1, 3 on 2; crowd regions do not count
    assert factors[:15].tolist() == [1.0] * 15
    assert factors[15:].tolist() == pytest.approx([2.0, 1.0, 1.0, 2**0.5, 2**0.5])
    assert repeat_factors(records, 0.0) is None


@given(st.lists(st.floats(1, 9), min_size=1, max_size=30), st.integers(0, 99))
def test_an_epoch_keeps_its_length_and_shows_images_in_proportion(factors, seed):
    indices, factors = np.arange(100, 100 + len(factors)), np.array(factors)
    order = epoch_order(indices, factors, np.random.default_rng(seed))
    wanted = factors / factors.sum() * len(indices)
    counts = np.bincount(order - 100, minlength=len(indices))
    assert len(order) == len(indices) and (np.abs(counts - wanted) < 1 + 1e-6).all()
    np.testing.assert_array_equal(order, epoch_order(indices, factors, np.random.default_rng(seed)))


def test_without_factors_every_image_comes_once():
    assert sorted(epoch_order(np.arange(9), None, np.random.default_rng(0)).tolist()) == list(range(9))
