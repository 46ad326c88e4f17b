"""The HTTP interface: Open Inference Protocol v2, image files, metrics and the page."""

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import jdnas
from export.session import physical_cores
from jdnas.serve.contract import VERSION
from jdnas.serve.limits import Limits, Refusal, read_body
from jdnas.serve.models import Models, ServedModel, one_thread
from jdnas.serve.protocol import HEADER_LENGTH, Body, build_reply, json_bytes, parse_request

# More JSON or compressed data, and more of binary tensors, is read in a thread, so that it does not hold up other requests.
_INLINE_BYTES, _INLINE_TENSOR_BYTES = 1 << 16, 1 << 20
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_CLIENT_LEFT = 499  # as nginx has it; nobody reads it but the metrics
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
}
_log = logging.getLogger("jdnas.serve")
_T = TypeVar("_T")


def create_app(models: Models, limits: Limits) -> FastAPI:
    """Return the application; it neither opens nor closes the models."""
    pool = ThreadPoolExecutor(physical_cores(), "jdnas-images", initializer=one_thread)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pool.shutdown()

    # Without the pages of FastAPI that describe the interface: they load scripts of other hosts.
    app = FastAPI(title="jdnas", version=jdnas.__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    _add_status(app, models)
    _add_inference(app, models, _Work(limits, pool))
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    return app


def _add_status(app: FastAPI, models: Models) -> None:
    page = (files("jdnas.serve") / "page.html").read_text()

    @app.get("/", response_class=HTMLResponse)
    async def page_for_people() -> Response:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(models.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v2/health/live")
    async def live() -> Response:
        return Response()

    @app.get("/v2/health/ready")
    async def ready() -> Response:
        return Response(status_code=200 if models.ready else 503)

    @app.get("/v2")
    async def server_metadata() -> dict[str, Any]:
        return {"name": "jdnas", "version": jdnas.__version__, "extensions": ["binary_tensor_data", "model_repository"]}

    @app.post("/v2/repository/index")
    async def index() -> list[dict[str, str]]:
        return [{"name": name, "version": VERSION, "state": "READY"} for name in sorted(models.by_name)]

    @app.get("/v2/models/{name}/versions/{version}/ready")
    @app.get("/v2/models/{name}/ready")
    async def model_ready(name: str, version: str | None = None) -> Response:
        return Response(status_code=200 if models.get(name, version).batcher.alive else 503)

    @app.get("/v2/models/{name}/versions/{version}")
    @app.get("/v2/models/{name}")
    async def model_metadata(name: str, version: str | None = None) -> dict[str, Any]:
        return models.get(name, version).contract.metadata(name)


def _add_inference(app: FastAPI, models: Models, work: "_Work") -> None:
    @app.post("/v2/models/{name}/versions/{version}/infer")
    @app.post("/v2/models/{name}/infer")
    async def infer(name: str, request: Request, version: str | None = None) -> Response:
        model = models.get(name, version)
        with models.metrics.request(name, "infer"), model.gate.admitted():
            return await work.infer(model, request)

    @app.post("/v2/models/{name}/versions/{version}/detect")
    @app.post("/v2/models/{name}/detect")
    async def detect(name: str, request: Request, score: Annotated[float, Query(ge=0, le=1)] = 0.3, version: str | None = None) -> Response:
        model = models.get(name, version)
        with models.metrics.request(name, "detect"), model.gate.admitted():
            return await work.detect(model, request, score)


class _Work:
    """What inference requests do once they are admitted, each within its time."""

    def __init__(self, limits: Limits, pool: ThreadPoolExecutor) -> None:
        self._limits, self._pool = limits, pool

    async def infer(self, model: ServedModel, request: Request) -> Response:
        deadline = asyncio.get_running_loop().time() + self._limits.timeout_s
        body = await self._body(request, deadline)
        header_length = request.headers.get(HEADER_LENGTH)

        async def answer() -> Response:
            quick = json_bytes(body, header_length) <= _INLINE_BYTES and len(body) <= _INLINE_TENSOR_BYTES
            parsed = await self._aside(
                quick, lambda: parse_request(body, header_length, model.contract, json_limit=self._limits.json_bytes)
            )
            if parsed.encoded:
                outputs, _ = await model.detect(parsed.encoded, max_pixels=self._limits.pixels, pool=self._pool)
            else:
                outputs = await model.infer(parsed.tensors["images"], parsed.tensors.get("sizes_hw"))
            content, headers = build_reply(model.name, parsed, outputs)
            return Response(content, headers=headers)

        return await self._awaited(request, deadline, answer())

    async def detect(self, model: ServedModel, request: Request, score: float) -> Response:
        deadline = asyncio.get_running_loop().time() + self._limits.timeout_s
        body = await self._body(request, deadline)
        detected = model.detect([body], max_pixels=self._limits.pixels, pool=self._pool)
        found, sizes = await self._awaited(request, deadline, detected)
        boxes, scores, labels = (found[key][0].tolist() for key in ("boxes", "scores", "labels"))
        classes = model.contract.info.classes
        detections = [
            {"box_xyxy": boxes[at], "score": scores[at], "label": labels[at], "class": classes[labels[at] - 1]}
            for at in range(int(found["count"][0])) if scores[at] >= score
        ]  # fmt: skip
        height, width = sizes[0]
        return JSONResponse(
            {"model_name": model.name, "model_version": VERSION, "image": {"width": width, "height": height}, "detections": detections}
        )

    async def _body(self, request: Request, deadline: float) -> Body:
        limit = self._limits.body_bytes
        try:
            async with asyncio.timeout_at(deadline):
                body = await read_body(request.stream(), request.headers.get("Content-Length"), limit)
        except TimeoutError as error:
            raise Refusal(408, f"the body did not arrive within {self._limits.timeout_s:g} s") from error
        except ClientDisconnect as error:
            raise Refusal(400, "the body ended early") from error
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding == "identity":
            return body
        return await self._aside(len(body) <= _INLINE_BYTES, lambda: _inflated(body, encoding, limit))

    async def _aside(self, quick: bool, work: Callable[[], _T]) -> _T:
        if quick:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _awaited(self, request: Request, deadline: float, work: Coroutine[Any, Any, _T]) -> _T:
        """Wait for `work` while there is time and a client; then it is cancelled, so that what is queued leaves the queue."""
        task, gone = asyncio.create_task(work), asyncio.create_task(_client_left(request))
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as error:
            raise Refusal(504, f"there was no result within {self._limits.timeout_s:g} s") from error
        else:
            if task.done():
                return task.result()
            raise Refusal(_CLIENT_LEFT, "the client left before there was a result")
        finally:
            task.cancel()
            gone.cancel()


async def _client_left(request: Request) -> None:
    """Wait until the connection of a request whose body was read is closed."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _inflated(body: Body, encoding: str, limit: int) -> bytes:
    if encoding not in ("gzip", "deflate"):
        raise Refusal(415, f"Content-Encoding {encoding[:40]!r} is unknown; known: gzip, deflate, identity")
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refusal(400, f"the body is not {encoding}") from error
    if len(plain) > limit:
        raise Refusal(413, f"the decompressed body is longer than {limit} bytes, the limit of this server")
    if not stream.eof:
        raise Refusal(400, f"the {encoding} body ends early")
    return plain


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


async def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
    if refusal.status == 408:
        headers["Connection"] = "close"  # the rest of the body may never come
    return _error(refusal.status, str(refusal), headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, str(error.detail), dict(error.headers or {}))


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _error(400, f"{first['loc'][-1]!r}: {first['msg']}")


async def _failed(request: Request, error: Exception) -> Response:
    _log.error("%s failed", request.url.path, exc_info=error)
    return _error(500, "the server failed on this request; its log says why")
