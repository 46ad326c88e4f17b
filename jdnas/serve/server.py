"""A server process: its socket, its signals and its end."""

import signal
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec

from jdnas.errors import ConfigError, MissingExtraError
from jdnas.serve.limits import Limits

_HTTP_HEADERS_BYTES = 1 << 16
_EXTRA = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Where and how to serve.

    delay_s: how long a request waits for others that fill the batch of its engine. images: whether image files are taken, which
    needs PyTorch. body_bytes: None takes what the models' largest requests need.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    runtime: str = "ort-cpu"
    threads: int | None = None
    delay_s: float = 0.002
    images: bool = True
    body_bytes: int | None = None
    limits: Limits = Limits()


def serve(artifacts: Iterable[str], settings: ServeSettings, say: Callable[[str], object]) -> None:
    """Serve until SIGTERM or SIGINT; requests that are inside then get their replies first.

    `artifacts` are PATH or NAME=PATH. ConfigError where the address is taken, MissingExtraError without the extra `serve`.
    """
    for module, package in _EXTRA.items():
        if find_spec(module) is None:
            raise MissingExtraError(package, "serve")
    import uvicorn

    from jdnas.serve.app import create_app
    from jdnas.serve.metrics import Metrics
    from jdnas.serve.models import Models

    signal.signal(signal.SIGTERM, _leave)
    limits = settings.limits
    with (
        listen(settings.host, settings.port) as listening,
        Models(
            artifacts, runtime=settings.runtime, threads=settings.threads, delay_s=settings.delay_s, queue=limits.queue,
            images=settings.images, metrics=Metrics(),
        ) as models,
    ):  # fmt: skip
        app = create_app(models, replace(limits, body_bytes=settings.body_bytes or models.body_bytes()))
        config = uvicorn.Config(
            app, http="h11", ws="none", h11_max_incomplete_event_size=_HTTP_HEADERS_BYTES, access_log=False, log_level="warning",
            limit_concurrency=limits.connections, timeout_graceful_shutdown=int(limits.timeout_s) + 1, server_header=False,
            proxy_headers=False,
        )  # fmt: skip
        for model in models.by_name.values():
            info = model.contract.info
            say(f"{model.name}: {info.size_hw[1]}x{info.size_hw[0]}, batch {info.batch}, {len(info.classes)} classes, {settings.runtime}")
        say(f"ready: http://{settings.host}:{listening.getsockname()[1]}/ (page), /v2 (protocol), /metrics")
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # uvicorn raises the signals that ended it once more
            say("stopped")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one. ConfigError where the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=1024)
        # Connections inherit it. asyncio sets it only where a socket names its protocol, and without it the body of a reply waits for the
        # client's delayed acknowledgement of the head: 40 ms.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --host or --port") from error


def _leave(*_: object) -> None:
    raise SystemExit(0)
