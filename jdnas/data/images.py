"""Image files: decoding to RGB, checking, and keeping decoded images in memory."""

from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from jdnas.data.records import DetectionSet, Record
from jdnas.errors import DataError

CACHE_LIMIT_BYTES = 1_500_000_000
_EXIF_ORIENTATION = 0x0112
_TRANSPOSED = {5, 6, 7, 8}


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode a file to RGB `[H, W, 3]` uint8 with its EXIF orientation applied; a DataError names a file that cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            return np.array(_rgb(ImageOps.exif_transpose(image)))
    except Exception as error:  # decoders raise almost anything on damaged files
        raise DataError(f"image {str(path)!r} cannot be read ({_one_line(error)}); repair or remove it") from error


def image_size_hw(path: Path) -> tuple[int, int] | None:
    """Return (height, width) after EXIF transposition, or None where the file does not decode to its end.

    A verdict is kept until the file changes.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return _decoded_size_hw(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1 << 20)
def _decoded_size_hw(path: Path, mtime_ns: int, size_bytes: int) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            width, height = image.size
            image.draft(None, (width // 8, height // 8))  # JPEG: reads all of the file, but reconstructs only every eighth pixel
            image.load()
            transposed = image.getexif().get(_EXIF_ORIENTATION) in _TRANSPOSED
    except Exception:  # decoders raise almost anything on damaged files
        return None
    return (width, height) if transposed else (height, width)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip at 255
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class ImageStore:
    """Decoded images of a set by index, kept in memory once read if `keep` is set."""

    def __init__(self, records: tuple[Record, ...], keep: bool) -> None:
        self._records = records
        self._images: dict[int, NDArray[np.uint8]] | None = {} if keep else None

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return image `index` as RGB `[H, W, 3]` uint8; do not write to it."""
        if self._images is None:
            return self._read(index)
        image = self._images.get(index)
        if image is None:
            image = self._images[index] = self._read(index)
        return image

    def _read(self, index: int) -> NDArray[np.uint8]:
        record = self._records[index]
        image = read_image(record.path)
        if image.shape[:2] != (record.height, record.width):
            raise DataError(f"image {str(record.path)!r} has changed its size since it was loaded; start again")
        return image


_stores: WeakKeyDictionary[DetectionSet, ImageStore] = WeakKeyDictionary()


def image_store(data: DetectionSet, cache: bool | None = None) -> ImageStore:
    """Return the images of `data`; by default they stay in memory, shared by all readers, if they take less than 1.5 GB."""
    if cache is None:
        cache = sum(r.height * r.width * 3 for r in data.records) <= CACHE_LIMIT_BYTES
    if not cache:
        return ImageStore(data.records, keep=False)
    return _stores.setdefault(data, ImageStore(data.records, keep=True))
