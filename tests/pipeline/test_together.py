import pytest

from jdnas.config import resolve
from jdnas.errors import ConfigError
from jdnas.pipeline.together import check_devices
from tests.pipeline.conftest import NANO


def test_batches_of_the_pool_must_be_shareable_too() -> None:
    pytest.importorskip("lightning_fabric")
    config = resolve(str(NANO), {"base_train": {"batch": 3}})
    check_devices(config, 3, 1)
    with pytest.raises(ConfigError, match=r"a batch of 4 cannot be shared by 3 devices; give a multiple: --set pool.train.batch=N"):
        check_devices(config, 3, 1, with_pool=True)
