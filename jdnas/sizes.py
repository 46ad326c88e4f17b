"""Input sizes as text."""

import re

from jdnas.errors import ConfigError

SizeHW = tuple[int, int]


def size_hw_from_text(text: str) -> SizeHW:
    """Read WIDTHxHEIGHT, such as 1333x800, as (height, width) in pixels."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or min(map(int, found.groups())) < 1:
        raise ConfigError(f"a size is written WIDTHxHEIGHT in pixels, such as 1333x800; got {text!r}")
    return int(found[2]), int(found[1])
