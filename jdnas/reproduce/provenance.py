"""What the figures of an experiment were taken with."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import jdnas
from latency.machine import cpu_model

ROOT = Path(jdnas.__file__).parents[1]


def commit() -> str:
    """Return the commit of the source tree that runs, with `+` where files differ from it; `unknown` for an installed package."""
    if not (ROOT / ".git").exists():
        return "unknown"
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def command() -> str:
    """Return the command that runs, without folders of this machine."""
    script = Path(sys.argv[0]).resolve()
    if script.suffix != ".py" or script.name == "__main__.py":
        name = ["jdnas"]
    else:
        name = ["python", str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else script.name]
    return shlex.join([*name, *map(_portable, sys.argv[1:])])


def _portable(word: str) -> str:
    key, equals, value = word.rpartition("=")
    return key + equals + (Path(value).name if value.startswith("/") else value)


def provenance() -> dict[str, Any]:
    """Return machine, versions, threads, date, commit and the command that runs."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "jdnas": jdnas.__version__,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": command(),
    }
