"""Durations as people write them."""

import re

from jdnas.errors import ConfigError

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:(?:\d+(?:\.\d*)?|\.\d+)[dhms])+")


def seconds_from_text(text: str) -> float:
    """Read a duration such as 2h, 1h30m, 90m or 45s; a ConfigError shows what is allowed."""
    compact = text.replace(" ", "").lower()
    seconds = 0.0
    if _DURATION.fullmatch(compact):
        seconds = sum(float(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"[\d.]+[dhms]", compact))
    if seconds <= 0:
        raise ConfigError(f"a budget is a time such as 2h, 1h30m, 90m or 45s, got {text!r}")
    return seconds
