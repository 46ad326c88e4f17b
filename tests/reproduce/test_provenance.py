import sys

import pytest

from jdnas.reproduce.provenance import ROOT, command


def test_a_command_is_told_without_folders_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", [str(ROOT / "benchmarks" / "x.py"), "--work", "/some/where/run", "--set", "data=/home/me/bccd", "--lr=0.1"]
    )
    assert command() == "python benchmarks/x.py --work run --set data=bccd --lr=0.1"
