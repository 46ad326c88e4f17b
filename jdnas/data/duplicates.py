"""Images that occur twice: the same file, or pictures that look alike.

A difference hash (one bit per pair of neighbouring pixels of a 17x16 thumbnail: is the right one brighter?) is nearly the same for
copies that were scaled, recompressed or recoloured. It does not recognise crops, flips and turns.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 16
BITS = _SIDE * _SIDE
ALIKE_BITS = 16  # of 256; unrelated photographs differ in about half of them
_FLAT = 4.0  # grey levels; a picture without any contrast has a hash of noise
_ROWS = 256  # rows of the comparison that are in memory at a time
_SAME = -1  # in place of a distance: the same bytes
MOST_NAMED = 1000  # of frames of a camera that does not move, nearly all pairs are alike


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """An image file: SHA-256 of its bytes, and the difference hash `[256]` of its pixels (None for flat and unreadable ones)."""

    path: Path
    sha256: str
    bits: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images that are the same: the same bytes (`distance` 0 and `exact`), or alike in all but `distance` bits of 256."""

    first: Path
    second: Path
    exact: bool
    distance: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """How many pairs there are, and at most `MOST_NAMED` of them, the surest first."""

    count: int
    named: tuple[Pair, ...]


def difference_hash(image: Image.Image) -> NDArray[np.bool_] | None:
    """Return the difference hash `[256]` of a picture, or None where it shows nothing but one colour."""
    small = np.asarray(image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.LANCZOS), np.float32)
    return None if np.ptp(small) < _FLAT else (small[:, 1:] > small[:, :-1]).ravel()


def fingerprint(path: Path) -> Fingerprint:
    """Read one file."""
    data = path.read_bytes()
    try:
        with Image.open(BytesIO(data)) as image:
            image.draft("L", (8 * _SIDE, 8 * _SIDE))  # JPEG: reconstructs a small picture only
            bits = difference_hash(image)
    except Exception:  # decoders raise almost anything on damaged files
        bits = None
    return Fingerprint(path, hashlib.sha256(data).hexdigest(), bits)


def fingerprints(paths: Sequence[Path], on_file: Callable[[int, int], None] | None = None) -> list[Fingerprint]:
    """Read files by several threads; `on_file` is told how many of how many are done."""
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for one in pool.map(fingerprint, paths):
            found.append(one)
            if on_file is not None:
                on_file(len(found), len(paths))
    return found


def pairs_between(first: Sequence[Fingerprint], second: Sequence[Fingerprint], alike_bits: int = ALIKE_BITS) -> tuple[Pairs, Pairs]:
    """Return the pairs of an image of `first` and one of `second` that are the same file, and those that look alike and are not."""
    same, alike = _Surest(), _Surest()
    for found in _near(first, second, alike_bits):
        is_same = found[:, 0] == _SAME
        same.add(found[is_same])
        alike.add(found[~is_same])
    return same.pairs(first, second), alike.pairs(first, second)


def pairs_within(files: Sequence[Fingerprint], alike_bits: int = ALIKE_BITS) -> Pairs:
    """Return the pairs of two images of one list that are the same or look alike."""
    every = _Surest()
    for found in _near(files, files, alike_bits):
        every.add(found[found[:, 1] < found[:, 2]])
    return every.pairs(files, files)


class _Surest:
    """Counts the pairs of `_near`, and keeps those with the least distances."""

    def __init__(self) -> None:
        self._count, self._kept = 0, np.zeros((0, 3), np.int32)

    def add(self, found: NDArray[np.int32]) -> None:
        self._count += len(found)
        both = np.concatenate((self._kept, found))
        self._kept = both[np.argsort(both[:, 0], kind="stable")[:MOST_NAMED]]

    def pairs(self, first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> Pairs:
        named = [Pair(first[i].path, second[j].path, distance == _SAME, max(distance, 0)) for distance, i, j in self._kept.tolist()]
        return Pairs(self._count, tuple(named))


def _near(first: Sequence[Fingerprint], second: Sequence[Fingerprint], alike_bits: int) -> Iterator[NDArray[np.int32]]:
    """Yield, some rows of `first` at a time, `[pairs, 3]`: the distance (`_SAME` for the same bytes) and both places of each pair."""
    numbers: dict[str, int] = {}
    a, b = (np.array([numbers.setdefault(one.sha256, len(numbers)) for one in side], np.int64) for side in (first, second))
    rows, columns = _signs(first), _signs(second)
    for start in range(0, len(a), _ROWS):
        part = slice(start, start + _ROWS)
        distances = (BITS - rows[part] @ columns.T) / 2
        distances[a[part, None] == b] = _SAME
        i, j = np.nonzero(distances <= alike_bits)
        yield np.stack((distances[i, j], i + start, j), axis=1).astype(np.int32)


def _signs(files: Sequence[Fingerprint]) -> NDArray[np.float32]:
    """Return bits as -1 and 1, so that the product of two hashes is 256 less twice their distance; NaN, near to nothing, without a hash."""
    nothing = np.full(BITS, np.nan, np.float32)
    return np.array([nothing if one.bits is None else one.bits * np.float32(2) - 1 for one in files], np.float32).reshape(-1, BITS)
