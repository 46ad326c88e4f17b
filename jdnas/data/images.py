"""Image files: decoding to RGB, checking, and keeping decoded images in memory."""

import hashlib
import shutil
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from jdnas.data.records import DetectionSet, Record
from jdnas.errors import DataError

Pixels = NDArray[np.uint8]
Cache = Literal["auto", "ram", "disk", "none"]
Image.MAX_IMAGE_PIXELS = 200_000_000  # scans exceed Pillow's 89 million; it warns above this, and refuses twice as many
CACHE_LIMIT_BYTES = 1_500_000_000
UPLOAD_FORMATS = ("JPEG", "PNG")  # the decoders that strangers' bytes reach
_EXIF_ORIENTATION = 0x0112
_TRANSPOSED = {5, 6, 7, 8}


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode a file to RGB `[H, W, 3]` uint8 with its EXIF orientation applied; a DataError names a file that cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            return rgb_pixels(image)
    except Exception as error:  # decoders raise almost anything on damaged files
        raise DataError(f"image {str(path)!r} cannot be read ({_one_line(error)}); repair or remove it") from error


def decode_image(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode the bytes of a JPEG or PNG file to RGB `[H, W, 3]` uint8 as `read_image` does.

    DataError for other formats, damaged data, and images of more than `max_pixels`, which are refused before they are decoded.
    """
    try:
        with Image.open(BytesIO(data), formats=UPLOAD_FORMATS) as image:
            width, height = image.size
            if width * height <= max_pixels:
                image.load()
                return rgb_pixels(image)
    except UnidentifiedImageError as error:
        raise DataError(f"the {len(data)} bytes are not an image; send a {' or '.join(UPLOAD_FORMATS)} file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"the image is too large ({_one_line(error)}); at most {max_pixels} pixels are allowed") from error
    except Exception as error:  # decoders raise almost anything on damaged files
        raise DataError(f"the image cannot be decoded ({_one_line(error)}); send it again") from error
    raise DataError(f"the image has {width}x{height} pixels; at most {max_pixels} are allowed, so scale it down first")


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


def rgb_pixels(image: Image.Image) -> Pixels:
    """Return a picture as RGB `[H, W, 3]` uint8 with its EXIF orientation applied."""
    return np.array(_rgb(ImageOps.exif_transpose(image)))


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
        self._images: dict[int, Pixels] | None = {} if keep else None

    def __getitem__(self, index: int) -> Pixels:
        """Return image `index` as RGB `[H, W, 3]` uint8; do not write to it."""
        if self._images is None:
            return _read_record(self._records[index])
        image = self._images.get(index)
        if image is None:
            image = self._images[index] = _read_record(self._records[index])
        return image


class DiskStore:
    """Decoded images of a set in one memory-mapped file, which is filled as they are read and shared by processes and later runs.

    Before the pixels the file holds a number per image that follows from the image file's size and time of change, once its pixels are
    there: an image that was changed since is read again. A DataError says that the disk is too small: writing past its end through a
    mapping would end the process.
    """

    def __init__(self, records: tuple[Record, ...], path: Path) -> None:
        self._records = records
        sizes = np.array([record.height * record.width * 3 for record in records], np.int64)
        self._starts = np.concatenate(([0], np.cumsum(sizes)))
        marks = 8 * len(records)
        total = marks + int(self._starts[-1])
        if not path.exists() or path.stat().st_size != total:
            free = shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.exists())).free
            if free < total:
                raise DataError(
                    f"the image cache needs {total / 1e9:.1f} GB, and {path.parent} has {free / 1e9:.1f} GB left; "
                    "use --set data_settings.cache=none"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.truncate(total)
        mapped = np.memmap(path, np.uint8, "r+", shape=(total,))
        self._marks, self._bytes = mapped[:marks].view(np.uint64), mapped[marks:]

    def __getitem__(self, index: int) -> Pixels:
        """Return image `index` as RGB `[H, W, 3]` uint8; do not write to it."""
        record = self._records[index]
        kept = self._bytes[self._starts[index] : self._starts[index + 1]].reshape(record.height, record.width, 3)
        mark, known = _mark(record.path), self._marks[index]
        if not known or mark not in (0, known):
            kept[:] = _read_record(record)
            self._marks[index] = mark
        return np.asarray(kept)


def _mark(path: Path) -> np.uint64:
    """Return a number that is another one when a file was changed; 0 where there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return np.uint64(0)
    digest = hashlib.blake2b(f"{status.st_mtime_ns} {status.st_size}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest) | 1)


def _read_record(record: Record) -> Pixels:
    image = read_image(record.path)
    if image.shape[:2] != (record.height, record.width):
        raise DataError(f"image {str(record.path)!r} has changed its size since it was loaded; start again")
    return image


Store = ImageStore | DiskStore
_stores: WeakKeyDictionary[DetectionSet, Store] = WeakKeyDictionary()


def keep_images(data: DetectionSet, cache: Cache, folder: Path) -> None:
    """Decide where decoded images of a set stay: in memory, in a file of `folder`, nowhere, or ("auto") as `image_store` does."""
    if cache == "disk":
        _stores[data] = DiskStore(data.records, folder / f"{data.split}-{data.fingerprint}.u8")
    elif cache != "auto":
        _stores[data] = ImageStore(data.records, keep=cache == "ram")


def image_store(data: DetectionSet, cache: bool | None = None) -> Store:
    """Return the images of `data`; by default as `keep_images` said, else in memory, shared by all readers, if they take below 1.5 GB."""
    if cache is None:
        if data in _stores:
            return _stores[data]
        cache = sum(r.height * r.width * 3 for r in data.records) <= CACHE_LIMIT_BYTES
    if not cache:
        return ImageStore(data.records, keep=False)
    return _stores.setdefault(data, ImageStore(data.records, keep=True))
