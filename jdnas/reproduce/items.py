"""The paper's tables and figures by name, and how one is made: its jobs, then its layout, then its files."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jdnas.atomic import write_atomically
from jdnas.errors import ConfigError, unknown_name
from jdnas.pipeline.progress import clock_text
from jdnas.reproduce import comparison, distilling, dynamic, pruning, searches, teachers
from jdnas.reproduce.lab import Lab
from jdnas.reproduce.layout import Result
from jdnas.reproduce.provenance import provenance
from jdnas.reproduce.records import Job, Record
from jdnas.training.checkpoint import write_json

ALL = "all"


@dataclass(frozen=True)
class Item:
    """A table or figure: what has to be trained, and how the records are laid out."""

    jobs: Callable[[Lab], list[Job]]
    result: Callable[[Lab, list[Record]], Result]


ITEMS: dict[str, Item] = {
    "table1": Item(teachers.jobs, teachers.result),
    "table2": Item(pruning.jobs, pruning.result),
    "table3": Item(distilling.jobs, distilling.result),
    "table4": Item(searches.jobs, searches.table4),
    "table5": Item(comparison.jobs, comparison.table5),
    "table7": Item(comparison.jobs, comparison.table7),
    "figure4": Item(dynamic.jobs, dynamic.result),
    "figure5": Item(searches.jobs, searches.figure5),
    "figure6": Item(searches.jobs, searches.figure6),
    "figure7": Item(searches.jobs, searches.figure7),
}


def named(what: str) -> list[str]:
    """Return the tables and figures that a name stands for: itself, or with `all` every one."""
    if what == ALL:
        return list(ITEMS)
    if what not in ITEMS:
        raise ConfigError(unknown_name("table or figure", what, (*ITEMS, ALL)))
    return [what]


def reproduce(what: str, lab: Lab, out: Path, *, scale: str, table_only: bool = False) -> list[Path]:
    """Make tables and figures and return the Markdown files, each with a .json and for figures an .svg beside it.

    Jobs whose records are in the work folder are not done again. With `table_only` nothing is trained, and what has no record is left out;
    a ConfigError says that nothing has one.
    """
    names = named(what)
    jobs = {name: ITEMS[name].jobs(lab) for name in names}
    left = {job.path: job for name in names for job in jobs[name] if not job.done}
    started, done = time.monotonic(), 0
    written = []
    for name in names:
        for job in [] if table_only else jobs[name]:
            if job.done:
                continue
            before = time.monotonic()
            job.record()
            done += 1
            now = time.monotonic()
            rest = clock_text((now - started) / done * (len(left) - done))
            if not lab.quiet:
                lab.console.print(f"{name}: {job.what}: {now - before:.0f} s  ({done} of {len(left)}, about {rest} left)", highlight=False)
        records = [job.record() for job in jobs[name] if job.done]
        if records:
            made_with = [record["provenance"] for record in records if "provenance" in record]
            written.append(_publish(name, ITEMS[name].result(lab, records), made_with, lab, out, scale))
    if not written:
        raise ConfigError(f"{what} has no records in {lab.work} yet; leave out --table-only")
    return written


def _publish(name: str, result: Result, made_with: list[Record], lab: Lab, out: Path, scale: str) -> Path:
    """Write what came out of an item, with its setting, and the provenance of its records and of this layout."""
    context, table = lab.context(lab.scale.pool_model), result.table
    settings = lab.config.model_dump(mode="json", exclude={"base", "seed", "weights", "preset", "data"})
    document = {
        "what": name, "title": table.title, "scale": scale, "setting": lab.scale.label, "seeds": list(lab.scale.seeds),
        "data": {
            "name": Path(lab.config.data).name, "train_images": len(context.train.records), "val_images": len(context.val.records),
            "classes": list(context.train.classes), "fingerprint": [context.train.fingerprint, context.val.fingerprint],
        },
        "scale_settings": lab.scale.model_dump(mode="json", exclude={"run", "preset"}), "settings": settings,
        "provenance": [own for index, own in enumerate(made_with) if own not in made_with[:index]], "laid_out_with": provenance(),
        "columns": list(table.columns), "cells": [list(row) for row in table.rows], "notes": list(table.notes), "rows": list(result.rows),
    }  # fmt: skip
    write_json(out / f"{name}.json", document)
    if result.svg:
        write_atomically(out / f"{name}.svg", result.svg.encode())
    place = f"{len(context.train.records)} training and {len(context.val.records)} validation images of {Path(lab.config.data).name}"
    text = f"{table.markdown()}\nSetting: {lab.scale.label}; {place}.\n" + (f"\n![{table.title}]({name}.svg)\n" if result.svg else "")
    write_atomically(out / f"{name}.md", text.encode())
    return out / f"{name}.md"
