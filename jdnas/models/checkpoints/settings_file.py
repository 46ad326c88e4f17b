"""Settings files of other projects, given beside their weights."""

from pathlib import Path
from typing import Any

import yaml

from jdnas.errors import CheckpointError
from jdnas.models.checkpoints.python_config import read_python_config


def read_settings(path: Path) -> dict[str, Any]:
    """Read detectron2's config.yaml or mmdetection's config.py as data; a CheckpointError says what is wrong with it."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"settings file {path} cannot be read ({error})") from error
    if path.suffix == ".py":
        settings: Any = read_python_config(text)
    else:
        try:
            settings = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise CheckpointError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    base = next((key for key in ("_base_", "_BASE_") if isinstance(settings, dict) and key in settings), None)
    if base is not None:
        raise CheckpointError(f"{path} builds on {settings[base]!r}; give the whole settings, which training wrote beside its checkpoints")
    if not isinstance(settings, dict) or not {"MODEL", "model"} & settings.keys():
        raise CheckpointError(f"{path} holds no settings of a model; give detectron2's config.yaml or mmdetection's config.py")
    return settings
