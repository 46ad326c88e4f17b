"""Blocks ready to be timed on a target's runtime."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import ModelProto

from export.compiler import CompiledFor
from export.runtimes import open_session
from export.session import Array, BoundCall, RuntimeInfo
from jdnas.atomic import write_atomically
from latency.block_graphs import layer_graph
from latency.blocks import REST, Block
from latency.exports import suffix_of
from latency.plan import rest_spec
from latency.rest_graphs import rest_feeds, rest_graph
from latency.targets import Target

COPIES = 4


@contextmanager
def block_call(
    block: Block, target: Target, engines_dir: Path | None = None, *, copies: int = COPIES
) -> Iterator[tuple[BoundCall, RuntimeInfo]]:
    """Give a call that runs a block, layers `copies` times, and what runs it; exported rests are kept in `engines_dir`."""
    if target.runtime == "aoti":
        with tempfile.TemporaryDirectory() as folder:
            path, feeds = _package(block, target, copies, Path(folder))
            session = open_session(path, target.runtime, threads=target.threads, where=block.family)
            try:
                yield session.bind(feeds), session.info
            finally:
                session.close()
        return
    model, feeds = graph_of(block, target, engines_dir, copies=copies)
    session = open_session(model.SerializeToString(), target.runtime, threads=target.threads, where=block.family)
    try:
        yield session.bind(feeds), session.info
    finally:
        session.close()


def graph_of(block: Block, target: Target, engines_dir: Path | None, *, copies: int = COPIES) -> tuple[ModelProto, Mapping[str, Array]]:
    """Return a block as ONNX in the target's precision, and its inputs."""
    if block.family != REST:
        return layer_graph(block, copies, half=target.precision == "fp16")
    model = _rest(block, target, engines_dir)
    return model, rest_feeds(model, (block.sizes[0], block.sizes[1]))


def _rest(block: Block, target: Target, engines_dir: Path | None) -> ModelProto:
    path = engines_dir / f"rest_{'_'.join(map(str, block.sizes))}{suffix_of(target)}.onnx" if engines_dir else None
    if path is not None and path.is_file():
        return onnx.load(path)
    model = rest_graph(rest_spec(block), (block.sizes[0], block.sizes[1]), runtime=target.runtime, precision=target.precision)
    if path is not None:
        write_atomically(path, model.SerializeToString())
    return model


def _package(block: Block, target: Target, copies: int, folder: Path) -> tuple[Path, Mapping[str, Array]]:
    import torch

    from export.aot_inductor import compile_package
    from latency.block_modules import layer_module, rest_module

    names: tuple[str, ...] = ("y",)
    if block.family == REST:
        module, inputs, names = rest_module(block)
    else:
        module, inputs = layer_module(block, copies)
    if target.precision == "fp16":
        module, inputs = module.half(), {name: t.half() if t.is_floating_point() else t for name, t in inputs.items()}
    device: CompiledFor = "cpu" if target.processor == "cpu" else "cuda"
    with torch.random.fork_rng(devices=[]):
        path = compile_package(module, inputs, names, folder / "block.pt2", device=device)
    return path, {name: tensor.numpy() for name, tensor in inputs.items()}
