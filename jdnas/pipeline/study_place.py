"""Where a run's study is: a file of the run folder, or a database that several runs may share."""

import uuid
from dataclasses import dataclass

from jdnas.errors import CheckpointError
from jdnas.passwords import without_passwords
from jdnas.pipeline.run_folder import RunFolder
from jdnas.search.study import STUDY_NAME
from jdnas.training.checkpoint import read_json, write_json


@dataclass(frozen=True, slots=True)
class StudyPlace:
    """The address of a study's database, and the study's name in it."""

    url: str
    name: str = STUDY_NAME

    @property
    def shown(self) -> str:
        """Both as they may be printed."""
        return f"{self.name!r} at {without_passwords(self.url)}"


def begin_study(folder: RunFolder, url: str | None) -> StudyPlace:
    """Return the place of a run's study; in a database of the user's its name is drawn once, so that no two runs share it."""
    if url is not None and not folder.study_file.exists():
        name = f"{folder.root.resolve().name}-{uuid.uuid4().hex[:8]}"
        write_json(folder.study_file, {"name": name, "url": without_passwords(url)})
    return find_study(folder, url)


def find_study(folder: RunFolder, url: str | None) -> StudyPlace:
    """Return the place of the study of a run that was begun; `url` is that of the settings, or with a password in it."""
    if not folder.study_file.exists():
        if url is not None:
            raise CheckpointError(f"{folder.root} holds no search study yet; start one with: jdnas search --run-dir {folder.root}")
        return StudyPlace(folder.study_url)
    kept = read_json(folder.study_file)
    if url is not None and without_passwords(url) != kept["url"]:
        raise CheckpointError(f"the study of {folder.root} is at {kept['url']}, not at {without_passwords(url)}; leave out --study-url")
    return StudyPlace(url or str(kept["url"]), str(kept["name"]))
