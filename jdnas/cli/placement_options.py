"""Options that say where candidates are worked on."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jdnas.pipeline.placement import Placement

Executor = Annotated[str, typer.Option(help="Where candidates are trained: local (one after the other here) or ray (extra `ray`).")]
RayAddress = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster, such as auto; default: RAY_ADDRESS, else one is started on this machine.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Candidates in flight with Ray; default: as many as the cluster has room for.")]
GpusPerTrial = Annotated[float | None, typer.Option(min=0, help="GPUs per candidate, also parts such as 0.5; default: 1 if there are any.")]
CpusPerTrial = Annotated[float | None, typer.Option(min=0, help="CPU cores per candidate with Ray; default: 1.")]
Storage = Annotated[
    str | None, typer.Option(help="URL such as s3://bucket/runs, for Ray nodes that do not see the run folder and the data set.")
]


def placement_from(
    executor: str, ray_address: str | None, workers: int | None, gpus_per_trial: float | None, cpus_per_trial: float | None,
    storage: str | None,
) -> "Placement":  # fmt: skip
    """Return what the options say."""
    from jdnas.pipeline.placement import Placement

    return Placement(executor, ray_address, workers, gpus_per_trial, cpus_per_trial, storage)
