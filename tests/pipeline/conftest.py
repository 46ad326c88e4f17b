"""One run of the whole job, shared by all tests of this folder."""

import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fsspec
import pytest

from jdnas.cli import main

NANO = Path(__file__).with_name("nano.yaml")


def jdnas(*arguments: object) -> tuple[int, str, str]:
    """Call the command line in this process; return exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with patch.object(sys, "argv", ["jdnas", *map(str, arguments)]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()


@dataclass(frozen=True)
class NanoRun:
    folder: Path
    arguments: tuple[object, ...]
    out: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def student(self) -> Path:
        return self.folder / "student" / "student"


@pytest.fixture(scope="session")
def nano_run(tmp_path_factory: pytest.TempPathFactory) -> NanoRun:
    folder = tmp_path_factory.mktemp("nano") / "run"
    arguments = ("optimize", "--base", "r18", "--target", "cpu-ort", "--data", "shapes", "--preset", NANO, "--run-dir", folder)
    code, out, err = jdnas(*arguments)
    assert code == 0, out + err
    return NanoRun(folder, arguments, out)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server that speaks S3's protocol."""
    server = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[s3]' flask flask-cors s3fs").ThreadedMotoServer
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket, which processes that are started from here reach too."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    for name, value in (("ACCESS_KEY_ID", "tests"), ("SECRET_ACCESS_KEY", "tests"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    kind = fsspec.get_filesystem_class("s3")
    kind.clear_instance_cache()  # an instance goes on with the address that it was made with
    system = kind(skip_instance_cache=True)
    system.mkdir("jdnas-tests")
    yield "s3://jdnas-tests"
    system.rm("jdnas-tests", recursive=True)
    kind.clear_instance_cache()
