"""What holds for every function of the Python API."""

import inspect
import subprocess
import sys

import pytest

import jdnas
from jdnas import api

FUNCTIONS = [name for name in jdnas.__all__ if inspect.isfunction(getattr(jdnas, name))]


def test_one_list_of_names() -> None:
    assert sorted(api._PLACE_OF) == sorted(api.__all__) == sorted(set(jdnas.__all__))
    assert set(jdnas.__all__) <= set(dir(jdnas))
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = jdnas.optimise  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented_and_typed(name: str) -> None:
    function = getattr(jdnas, name)
    assert (function.__doc__ or "").strip()
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD, parameter
        optional = parameter.default is not inspect.Parameter.empty and parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        assert not optional or parameter.name in ("target", "out", "folder", "files"), f"{parameter} should be keyword-only"


def test_importing_jdnas_is_light() -> None:
    code = "import sys, jdnas; dir(jdnas); print(sorted({'torch', 'numpy', 'rich', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
