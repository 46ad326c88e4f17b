"""Third-party tables of single convolutions, such as those that other projects measured on devices that are not at hand.

A row is `{kind,batch,in_c,in_h,in_w,out_c,kernel,stride,elementwise_add_fused} milliseconds`, kind being Regular or Depthwise. A
latency of -1 is a measurement that failed. Files may be compressed with xz or gzip.
"""

import gzip
import hashlib
import lzma
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from jdnas.errors import TargetError
from latency.blocks import Block, layer_family

_ROW = re.compile(r"\{(Regular|Depthwise),(\d+(?:,\d+){7})\}\s+(\S+)")
_KINDS = {"Regular": "conv", "Depthwise": "depthwise"}
_FAILED = -1.0


@dataclass(frozen=True, slots=True, order=True)
class ConvRow:
    """A convolution that was measured: its block (sizes are those of the output), whether an addition is fused, and milliseconds."""

    block: Block
    add: bool
    latency_ms: float


@dataclass(frozen=True, slots=True)
class ConvLibrary:
    """The rows of a file at one batch, how many were dropped because they had failed, and the file's fingerprint."""

    rows: tuple[ConvRow, ...]
    batch: int
    failed: int
    other_batches: int
    file: str
    sha256: str


def read_conv_library(path: Path, *, batch: int) -> ConvLibrary:
    """Read the rows of `batch` images; a TargetError names the file, and the line that cannot be read."""
    rows, failed, others, batches = [], 0, 0, set()
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        size, row = _row(line, f"{path}, line {number}")
        batches.add(size)
        if size != batch:
            others += 1
        elif row is None:
            failed += 1
        else:
            rows.append(row)
    if not rows:
        held = f"batches {', '.join(map(str, sorted(batches)))}" if batches else "no row"
        raise TargetError(f"convolution library {path} has no usable row of batch {batch}; it holds {held}")
    return ConvLibrary(tuple(sorted(rows)), batch, failed, others, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def _lines(path: Path) -> Iterator[str]:
    # What gzip.open and lzma.open return differs in type only.
    openers: dict[str, Callable[..., IO[Any]]] = {".xz": lzma.open, ".gz": gzip.open}
    try:
        with openers.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
            yield from file
    except FileNotFoundError as error:
        raise TargetError(f"convolution library {path} does not exist") from error
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise TargetError(f"convolution library {path} cannot be read: {error}; get it again") from error


def _row(line: str, where: str) -> tuple[int, ConvRow | None]:
    found = _ROW.fullmatch(line.strip())
    latency_ms = _number(found[3]) if found else math.nan
    if not found or not (latency_ms > 0 or latency_ms == _FAILED):
        raise TargetError(
            f"{where} is {line.strip()[:80]!r}, not '{{Regular|Depthwise,batch,in_c,in_h,in_w,out_c,kernel,stride,add}} milliseconds' "
            "with milliseconds above 0, or -1 where the measurement failed"
        )
    batch, reads, height, width, writes, kernel, stride, add = map(int, found[2].split(","))
    if min(batch, reads, height, width, writes, kernel, stride) < 1:
        raise TargetError(f"{where} has a size below 1: {line.strip()[:80]!r}")
    family = layer_family(_KINDS[found[1]], kernel, stride)
    block = Block(family, (reads, writes, -(-height // stride), -(-width // stride), batch))
    return batch, None if latency_ms == _FAILED else ConvRow(block, bool(add), latency_ms)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
