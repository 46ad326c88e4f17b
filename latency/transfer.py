"""A table for a new device from the table of another one."""

from pathlib import Path

from jdnas.errors import TargetError
from latency.tables import LatencyTable, read_table
from latency.targets import Target


def adapted_table(source: Path, target: Target) -> LatencyTable:
    """Return a table of `target` with the blocks of another device's table and no engines yet; TargetError for another runtime.

    Devices of one runtime differ mostly by a factor per kind of block and by what a call costs, which a few whole engines teach (see
    `latency.correction`). The provenance names the table that the blocks came from.
    """
    other = read_table(source)
    got, wanted = (other.runtime, other.precision, other.batch), (target.runtime, target.precision, target.batch)
    if got != wanted:
        raise TargetError(
            f"latency table {source} is of {' '.join(map(str, got))}, target {target.name!r} is {' '.join(map(str, wanted))}; "
            "a table can be adapted to another device of the same runtime, precision and batch only"
        )
    blocks_from = {"target": other.target, **other.provenance}
    return LatencyTable(target.name, target.runtime, target.precision, target.batch, {"blocks_from": blocks_from}, dict(other.blocks))
