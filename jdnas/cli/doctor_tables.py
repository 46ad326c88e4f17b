"""What `jdnas doctor` prints."""

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

Json = dict[str, Any]


def doctor_tables(found: Json) -> Iterator[Table]:
    """Yield the tables of an examination (`jdnas.pipeline.doctor.examine`)."""
    yield _machine(found)
    yield _runtimes(found)
    yield _extras(found["extras"])
    yield _targets(found["targets"])


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _machine(found: Json) -> Table:
    cpu, memory, disk = found["cpu"], found["memory_gib"], found["disk_gib"]
    table = _table(f"jdnas {found['jdnas']} on Python {found['python']}, {found['platform']}", "", "")
    table.add_row("CPU", f"{cpu['name']}: {cpu['physical_cores']} physical cores, {cpu['usable_cores']} usable threads of "
                         f"{cpu['logical_cores']}")  # fmt: skip
    limit = f" (OMP_NUM_THREADS={cpu['OMP_NUM_THREADS']})" if cpu["OMP_NUM_THREADS"] else ""
    table.add_row("threads", f"training {cpu['threads_of_torch']}{limit}, engines {cpu['threads_of_engines']}")
    for gpu in found["gpus"]:
        driver = f", driver {gpu['driver']}" if "driver" in gpu else ""
        table.add_row("GPU", f"{gpu['name']}: {gpu['memory_gib']} GiB, compute capability {gpu['compute_capability']}{driver}")
    if not found["gpus"]:
        table.add_row("GPU", "none that PyTorch can use")
    table.add_row("memory", f"{memory['free']} of {memory['total']} GiB free")
    table.add_row("disk", f"{disk['free']} GiB free for {disk['folder']}")
    return table


def _runtimes(found: Json) -> Table:
    table = _table("Runtimes and compilers", "", "package", "version", "here")
    for row in found["runtimes"]:
        here = ": ".join(filter(None, ("yes" if row["runs_here"] else "no", row["note"])))
        table.add_row(row["runtime"], row["package"], row["version"] or "not installed", escape(here))
    for row in found["compilers"]:
        table.add_row(row["name"], "", row["version"] or "", row["path"] or "not found; AOTInductor needs it")
    return table


def _extras(rows: list[Json]) -> Table:
    table = _table("Extras", "extra", "packages", "to install")
    for row in rows:
        packages = ", ".join(f"{name} {version or '(missing)'}" for name, version in row["packages"].items())
        table.add_row(row["extra"], packages, "" if row["installed"] else escape(row["command"]))
    table.caption = "cpu and gpu exclude each other"
    table.caption_justify = "left"
    return table


def _targets(rows: list[Json]) -> Table:
    table = _table("Targets", "target", "device", "runs on", "latencies known", "this machine")
    for row in rows:
        here = "yes" if row["this_machine"] else escape(row["why"])
        table.add_row(row["target"], row["device"], f"{row['runtime']} {row['precision']}", row["latencies_known"], here)
    return table
