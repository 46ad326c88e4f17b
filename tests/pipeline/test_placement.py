import sys

import pytest

from jdnas.config import RunConfig
from jdnas.errors import ConfigError, MissingExtraError, TargetError
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


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_without_a_cluster_is_said_at_once(address: str) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'jdnas[ray]'")
    with pytest.raises(TargetError, match=f"no Ray cluster at '{address}': .*refused; start one with: ray start --head"):
        check_placement(Placement("ray", ray_address=address), RunConfig(device="cpu"))


def test_gpus_for_the_cpu() -> None:
    assert error_of(Placement("ray", gpus_per_trial=0.5)) == "--gpus-per-trial 0.5 with device cpu; leave one of the two out"
