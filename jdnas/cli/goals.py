"""Options of searches; most are short forms of settings."""

from typing import Annotated

import typer

Trials = Annotated[int | None, typer.Option(min=0, help="Candidates to search beyond the base.")]
Budget = Annotated[
    str | None, typer.Option(help="Time for candidates, over all calls for this run: 2h, 1h30m, 90m, 45s. None is begun after it.")
]
Patience = Annotated[int | None, typer.Option(min=1, help="Stop after so many candidates without a new best.")]
MaxLatency = Annotated[float | None, typer.Option(min=0, help="Look for the best AP within this predicted latency in ms, not for H.")]
MinAp = Annotated[float | None, typer.Option(min=0, max=1, help="Look for the cheapest detector with at least this AP, not for H.")]
PolishEpochs = Annotated[
    float | None, typer.Option(min=0, help="Train the best student on for so many epochs, and deliver the better of both; default: 0.")
]
StudyUrl = Annotated[
    str | None,
    typer.Option(
        envvar="JDNAS_STUDY_URL", show_envvar=True,
        help="Database of the search's study, e.g. postgresql://user@host/db; default: a file in the run folder. Give the password in "
        "the environment variable, in PGPASSWORD or in ~/.pgpass; it is written and printed nowhere.",
    ),
]  # fmt: skip
