"""The command that serves exported detectors over HTTP."""

from typing import Annotated

import typer


def serve(
    artifacts: Annotated[
        list[str],
        typer.Argument(help="Engines (.onnx, .pt2, .engine), each PATH or NAME=PATH; without a name it is the file's without suffix."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    runtime: Annotated[str, typer.Option(help="ort-cpu, ort-cuda, openvino, aoti, tensorrt or tensorrt-rtx.")] = "ort-cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads within an operator; default: the physical cores.")] = None,
    images: Annotated[bool, typer.Option(help="Take JPEG and PNG files too. Tensors alone need no PyTorch.")] = True,
    delay_ms: Annotated[float, typer.Option(min=0, max=1000, help="How long a request waits for others to fill the engine's batch.")] = 2.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests of one model at once; more are answered 503.")] = 64,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Longest time of a request.")] = 30.0,
    max_body_mib: Annotated[int | None, typer.Option(min=1, help="Longest body; default: a full batch, at least 32 MiB.")] = None,
    max_json_mib: Annotated[int, typer.Option(min=1, help="Longest JSON part of a body.")] = 16,
    max_megapixels: Annotated[float, typer.Option(min=0.01, max=89, help="Largest image.")] = 50.0,
) -> None:
    """Serve engines over HTTP (Open Inference Protocol v2), with a page for trying them at / and Prometheus metrics at /metrics.

    Example: jdnas serve runs/demo/student/student.onnx base=runs/demo/base/base.onnx --port 8000
    """
    from jdnas.api.serving import serve_engines
    from jdnas.serve.limits import MIB, Limits
    from jdnas.serve.server import ServeSettings

    limits = Limits(json_bytes=max_json_mib * MIB, pixels=round(max_megapixels * 1e6), timeout_s=timeout_s, queue=queue)
    settings = ServeSettings(
        host=host, port=port, runtime=runtime, threads=threads, delay_s=delay_ms / 1000, images=images,
        body_bytes=None if max_body_mib is None else max_body_mib * MIB, limits=limits,
    )  # fmt: skip
    serve_engines(artifacts, settings=settings, say=lambda line: print(line, flush=True))


def register(app: typer.Typer) -> None:
    """Add the command of this file to the command line."""
    app.command()(serve)
