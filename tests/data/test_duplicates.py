from pathlib import Path

import numpy as np
from PIL import Image

from jdnas.data.duplicates import (
    ALIKE_BITS,
    BITS,
    MOST_NAMED,
    Fingerprint,
    Pair,
    Pairs,
    difference_hash,
    fingerprint,
    fingerprints,
    pairs_between,
    pairs_within,
)


def photo(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A smooth random picture, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def names_of(pair: Pair) -> tuple[str, str]:
    return pair.first.name, pair.second.name


def save(image: Image.Image, path: Path, **options: int) -> Path:
    image.save(path, **options)
    return path


def test_the_hash_compares_neighbours() -> None:
    rising = np.tile(np.arange(0, 255, 15, dtype=np.uint8), (16, 1))  # 17 columns, each brighter than the one before it
    assert difference_hash(Image.fromarray(rising)).tolist() == [True] * BITS
    assert difference_hash(Image.fromarray(rising[:, ::-1].copy())).tolist() == [False] * BITS
    assert difference_hash(Image.new("RGB", (50, 40), (90, 90, 90))) is None


def test_copies_are_found_and_others_are_not(tmp_path: Path) -> None:
    train = [save(photo(seed), tmp_path / f"train{seed}.png") for seed in range(6)]
    same = tmp_path / "same.png"
    same.write_bytes(train[1].read_bytes())
    smaller = save(photo(2).resize((160, 120)), tmp_path / "smaller.jpg", quality=60)
    brighter = save(photo(3).point(lambda value: min(255, value + 12)), tmp_path / "brighter.jpg")
    other = save(photo(77), tmp_path / "other.png")
    first, second = fingerprints(train), fingerprints([same, smaller, brighter, other])
    exact, alike = pairs_between(first, second)
    assert [(pair.first.name, pair.second.name, pair.exact) for pair in exact.named] == [("train1.png", "same.png", True)]
    assert {names_of(pair) for pair in alike.named} == {("train2.png", "smaller.jpg"), ("train3.png", "brighter.jpg")}
    assert all(0 <= pair.distance <= ALIKE_BITS and not pair.exact for pair in alike.named)
    assert (exact.count, alike.count) == (1, 2)


def test_distances_are_those_of_the_bits(tmp_path: Path) -> None:
    first, second = (fingerprint(save(photo(seed), tmp_path / f"{seed}.png")) for seed in (1, 2))
    expected = int((first.bits != second.bits).sum())
    assert [pair.distance for pair in pairs_between([first], [second], alike_bits=BITS)[1].named] == [expected]
    assert pairs_between([first], [second], alike_bits=expected - 1) == (Pairs(0, ()), Pairs(0, ()))


def test_pairs_within_a_list_are_told_once(tmp_path: Path) -> None:
    files = fingerprints([save(photo(1), tmp_path / "a.png"), save(photo(2), tmp_path / "b.png"), save(photo(1), tmp_path / "c.jpg")])
    assert [names_of(pair) for pair in pairs_within(files).named] == [("a.png", "c.jpg")]


def test_many_alike_are_counted_and_the_surest_named() -> None:
    """As from a camera that does not move: all pairs of 600 frames are alike, and two frames are the same file."""
    bits = np.random.default_rng(0).integers(0, 2, BITS).astype(bool)
    others = [bits ^ (np.arange(BITS) == place) for place in range(BITS)]
    files = [Fingerprint(Path(f"{i}.png"), str(i % 599), others[i % BITS]) for i in range(600)]
    within = pairs_within(files)
    assert within.count == 600 * 599 // 2 and len(within.named) == MOST_NAMED
    assert names_of(within.named[0]) == ("0.png", "599.png") and within.named[0].exact and not within.named[1].exact
    distances = [pair.distance for pair in within.named]
    assert distances == sorted(distances) and set(distances) == {0, 2}
    exact, alike = pairs_between(files, files)
    assert (exact.count, alike.count) == (602, 600 * 600 - 602)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    flat = [save(Image.new("RGB", (64, 64), (v, v, v)), tmp_path / f"{v}.png") for v in (10, 200)]
    seen: list[tuple[int, int]] = []
    files = fingerprints([broken, *flat], lambda done, total: seen.append((done, total)))
    assert [one.bits for one in files] == [None] * 3 and seen == [(1, 3), (2, 3), (3, 3)]
    assert pairs_within(files).count == 0 and pairs_between(files, files)[0].count == 3
