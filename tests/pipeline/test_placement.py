import sys

import pytest

from jdnas.config import RunConfig
from jdnas.errors import ConfigError, MissingExtraError
from jdnas.pipeline.placement import Placement, check_placement


def error_of(placement: Placement, config: RunConfig | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        check_placement(placement, config or RunConfig(device="cpu"))
    return str(caught.value)


def test_local_needs_nothing() -> None:
    check_placement(Placement(), RunConfig())


def test_options_that_do_not_go_together() -> None:
    assert "unknown executor 'slurm'; known: local, ray" in error_of(Placement("slurm"))
    assert error_of(Placement(workers=4, storage="s3://x")) == "--workers, --storage only go with --executor ray"


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'jdnas\[ray\]'"):
        check_placement(Placement("ray"), RunConfig())


def test_storage_is_tried_before_anything_else() -> None:
    assert "Protocol not known: gopher" in error_of(Placement("ray", storage="gopher://x"))
