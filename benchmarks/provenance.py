"""Where benchmarks leave their results, and what their figures were taken with."""

from pathlib import Path
from typing import Any

from jdnas.reproduce.provenance import ROOT, commit, provenance
from jdnas.training.checkpoint import write_json

__all__ = ["ROOT", "commit", "provenance", "publish"]


def publish(path: Path, record: dict[str, Any], **facts: Any) -> None:
    """Write what a benchmark found, with its provenance and `facts` of its own beside it."""
    write_json(path, {"provenance": provenance() | facts, **record})
