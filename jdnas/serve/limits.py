"""What a request may ask of the server, and how it is refused."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MIB = 1 << 20


class Refusal(Exception):
    """A request that is not answered, with its HTTP status; the message is for the client."""

    def __init__(self, status: int, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request and of all at once.

    body_bytes: a request's body, before and after decompression. json_bytes: its JSON part, whose objects take some twenty times its
    size. pixels: one encoded image. timeout_s: from a request's headers to its answer. queue: requests of one model that are read,
    waiting or running; more are answered 503. connections: open connections of all models.
    """

    body_bytes: int = 32 * MIB
    json_bytes: int = 16 * MIB
    pixels: int = 50_000_000
    timeout_s: float = 30.0
    queue: int = 64
    connections: int = 1000


class Gate:
    """Counts the requests inside and refuses those beyond `limit`; used from the event loop alone."""

    def __init__(self, limit: int, changed: Callable[[int], object]) -> None:
        self._limit, self._inside, self._changed = limit, 0, changed

    @property
    def inside(self) -> int:
        """The number of requests inside; any thread may look."""
        return self._inside

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a place for a request; a Refusal with 503 where there is none."""
        if self._inside >= self._limit:
            raise Refusal(503, f"{self._limit} requests are waiting already; try again later", retry_after_s=1)
        self._move(1)
        try:
            yield
        finally:
            self._move(-1)

    def _move(self, step: int) -> None:
        self._inside += step
        self._changed(self._inside)


async def read_body(chunks: AsyncIterator[bytes], announced: str | None, limit: int) -> bytearray:
    """Gather a body of at most `limit` bytes; a longer one is refused with 413, at once where its length was announced.

    Tensors are views of it, and runtimes take them where they are as long as they can be written to.
    """
    refusal = Refusal(413, f"the body is longer than {limit} bytes, the limit of this server")
    if announced is not None and announced.isascii() and announced.isdigit() and int(announced[:20]) > limit:
        raise refusal
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise refusal
    return body
