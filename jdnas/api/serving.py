"""Serving engines over HTTP."""

from collections.abc import Callable, Sequence

from jdnas.serve.server import ServeSettings
from jdnas.serve.server import serve as run


def serve_engines(
    artifacts: Sequence[str], *, settings: ServeSettings | None = None, say: Callable[[str], object] = print
) -> None:  # fmt: skip
    """Serve engines, each PATH or NAME=PATH, over HTTP (Open Inference Protocol v2) until the process is told to end.

    `say` gets the lines that tell what is served where.
    """
    run(artifacts, settings or ServeSettings(), say)
