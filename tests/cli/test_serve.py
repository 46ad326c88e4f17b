from pathlib import Path

import pytest

from tests.cli.conftest import Call


def test_wrong_uses_of_export_for_triton(jdnas: Call, tmp_path: Path) -> None:
    weights, engine = tmp_path / "student.safetensors", tmp_path / "student.onnx"
    assert "--out" in jdnas("export", weights).error
    assert "--out FILE.onnx" in jdnas("export", weights, "--triton", "repository").error
    assert "engine already" in jdnas("export", engine, "--triton", "repository", "--batch", 4).error
    assert "does not exist" in jdnas("export", engine, "--triton", "repository").error
    assert not Path("repository").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.onnx",), "does not exist"),
        (("a.onnx", "--runtime", "ort-tpu"), "ort-tpu"),
        (("../..=a.onnx",), "NAME="),
        (("a.onnx", "--host", "no.such.host.invalid"), "cannot listen"),
    ],
)
def test_wrong_uses_of_serve(jdnas: Call, arguments: tuple[str, ...], message: str) -> None:
    Path("a.onnx").write_bytes(b"no model")
    assert message in jdnas("serve", *arguments, "--port", 0, "--no-images").error
