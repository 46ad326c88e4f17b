"""What a benchmark's figures were taken with."""

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

ROOT = Path(__file__).parent.parent


def commit() -> str:
    """Return the commit that the working tree is at, with `+` where files differ from it."""
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def provenance() -> dict[str, Any]:
    """Return machine, versions, threads, date, commit and the command that runs."""
    script = Path(sys.argv[0]).resolve()
    name = str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else script.name
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "jdnas": jdnas.__version__,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", name, *words]),
    }
