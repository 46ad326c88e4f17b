"""Video files, read and written frame by frame through PyAV (FFmpeg)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from numpy.typing import NDArray

from jdnas.errors import DataError

Pixels = NDArray[np.uint8]
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
_ENCODERS = ("libx264", "libopenh264", "mpeg4")  # the first is what browsers play; builds of FFmpeg differ in what they have


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: RGB `[H, W, 3]` uint8 as it is to be seen, its number from 0, and its time in seconds."""

    pixels: Pixels
    number: int
    time_s: float


class VideoReader:
    """A video's first picture stream. `rate` is in frames per second, `frames` how many there are as far as the file tells (else 0)."""

    def __init__(self, path: Path, container: av.container.InputContainer) -> None:
        self._path, self._container, self._stream = path, container, container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        seconds = float(container.duration or 0) / av.time_base
        self.frames = self._stream.frames or round(seconds * float(self.rate))

    def read(self, every: int = 1) -> Iterator[Frame]:
        """Iterate every `every`-th frame; a DataError says where the file is damaged."""
        number = -1
        try:
            for number, frame in enumerate(self._container.decode(self._stream)):
                if number % every == 0:
                    time_s = frame.time if frame.time is not None else float(number / self.rate)
                    yield Frame(_upright(frame), number, time_s)
        except av.FFmpegError as error:
            raise DataError(f"video {str(self._path)!r} is damaged after frame {number} ({error})") from error


@contextmanager
def open_video(path: Path) -> Iterator[VideoReader]:
    """Open a video for reading; a DataError says that the file is none."""
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"video {str(path)!r} cannot be opened ({error}); repair or remove it") from error
    with container:
        if not container.streams.video:
            raise DataError(f"{str(path)!r} has no pictures; give a video")
        yield VideoReader(path, container)


def _upright(frame: av.VideoFrame) -> Pixels:
    """Return the pixels turned as the file says; phones record portraits lying on their side."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90 % 4))


class VideoWriter:
    """Writes RGB frames of one size to an .mp4 file, which is there once the `with` ends without an error."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._path, self._rate = path, rate
        self._partial = path.with_name(f".{path.stem}.partial.mp4")
        self._count = 0
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None

    def write(self, pixels: Pixels) -> None:
        """Append a frame `[H, W, 3]` uint8; a last odd row or column is left out, since the codec halves colours."""
        pixels = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
        if self._container is None or self._stream is None:
            self._open(pixels.shape[0], pixels.shape[1])
        assert self._container is not None and self._stream is not None
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def _open(self, height: int, width: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._partial), "w", format="mp4")
        encoder = next(name for name in _ENCODERS if name in av.codecs_available)
        stream = self._container.add_stream(encoder, rate=self._rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._container is not None and self._stream is not None:
            if kind is None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if kind is None:
                self._partial.replace(self._path)
        self._partial.unlink(missing_ok=True)
