"""Images that occur twice: the same file, or pictures that look alike.

A difference hash (one bit per pair of neighbouring pixels of a 17x16 thumbnail: is the right one brighter?) is nearly the same for
copies that were scaled, recompressed or recoloured. It does not recognise crops, flips and turns.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
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
_ROWS = 2048  # rows of the comparison that are in memory at a time


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


def pairs_between(first: Sequence[Fingerprint], second: Sequence[Fingerprint], alike_bits: int = ALIKE_BITS) -> list[Pair]:
    """Return every pair of an image of `first` and one of `second` that are the same or look alike, the surest first."""
    by_hash: dict[str, list[Fingerprint]] = {}
    for one in second:
        by_hash.setdefault(one.sha256, []).append(one)
    exact = [Pair(a.path, b.path, True, 0) for a in first for b in by_hash.get(a.sha256, ())]
    known = {(pair.first, pair.second) for pair in exact}
    alike = [pair for pair in _alike(first, second, alike_bits) if (pair.first, pair.second) not in known]
    return exact + sorted(alike, key=lambda pair: pair.distance)


def pairs_within(files: Sequence[Fingerprint], alike_bits: int = ALIKE_BITS) -> list[Pair]:
    """Return every pair of two images of one list that are the same or look alike, the surest first."""
    place = {one.path: index for index, one in enumerate(files)}
    return [pair for pair in pairs_between(files, files, alike_bits) if place[pair.first] < place[pair.second]]


def _alike(first: Sequence[Fingerprint], second: Sequence[Fingerprint], alike_bits: int) -> list[Pair]:
    rows, columns = ([one for one in side if one.bits is not None] for side in (first, second))
    if not rows or not columns:
        return []
    # With bits as -1 and 1, the product of two hashes is 256 less twice their distance.
    a, b = (np.array([one.bits for one in side], np.float32) * 2 - 1 for side in (rows, columns))
    found = []
    for start in range(0, len(a), _ROWS):
        distances = (BITS - a[start : start + _ROWS] @ b.T) / 2
        for i, j in np.argwhere(distances <= alike_bits):
            found.append(Pair(rows[start + i].path, columns[j].path, False, int(distances[i, j])))
    return found
