"""Joint search of architecture, width and weights for object detectors that run on a given device."""

# ruff: noqa: F403
from typing import TYPE_CHECKING

from jdnas import api
from jdnas.api import __all__

if TYPE_CHECKING:
    from jdnas.api import *

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Return a function of `jdnas.api`. `search`, `distill`, `report` and `serve` are packages; their functions have longer names."""
    if name in __all__:
        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
