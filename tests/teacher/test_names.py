import random

import pytest

from jdnas.errors import ConfigError
from jdnas.presets import preset
from jdnas.teacher.names import describe_subnet, subnet_from_text
from jdnas.teacher.space import Choice, SubnetSpace

SPACE = SubnetSpace(preset("r101", 80), (2, 2, 2, 2), (3, 4, 23, 3), (1.0, 1.25, 1.5))


def test_named_subnets() -> None:
    assert subnet_from_text(SPACE, "largest") == SPACE.largest
    assert subnet_from_text(SPACE, "smallest") == SPACE.smallest
    assert subnet_from_text(SPACE, "middle").depths == (2, 3, 12, 2)
    assert subnet_from_text(SPACE, "r50") == preset("r50", 80)
    assert subnet_from_text(SPACE, "r101") == preset("r101", 80)


def test_subnets_by_their_parts() -> None:
    found = subnet_from_text(SPACE, "d=2-3-9-2,w=1.0-1.25-1.5-1.0,n=1.25")
    assert SPACE.choice_of(found) == Choice((2, 3, 9, 2), (1.0, 1.25, 1.5, 1.0), 1.25)
    assert SPACE.choice_of(subnet_from_text(SPACE, "d=2-3-9-2,w=1.5")) == Choice((2, 3, 9, 2), (1.5,) * 4, 1.5)
    assert SPACE.choice_of(subnet_from_text(SPACE, "d=2-3-9-2")) == Choice((2, 3, 9, 2), (1.0,) * 4, 1.0)


def test_description_reads_back() -> None:
    rng = random.Random(0)
    for _ in range(30):
        spec = SPACE.sample(rng)
        assert subnet_from_text(SPACE, describe_subnet(SPACE, spec)) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("huge", "names no subnet; write largest"),
        ("d=2-2", "needs 4 depths"),
        ("d=2-2-x-2", "names no subnet"),
        ("w=1.0", "names no subnet"),
        ("d=1-2-2-2", "stage 0 with 1 blocks is smaller than any subnet of this pool; it has 2 to 3"),
        ("d=0-2-2-2", "without blocks"),
        ("d=2-2-40-2", "stage 2 with 40 blocks is larger"),
        ("d=2-2-2-2,w=0.5", "width factor 0.5 .* is not in this pool; it has 1.0, 1.25, 1.5"),
        ("r18", "'r18' is a resnet_basic"),
        ("r152", "is larger than any subnet"),
    ],
)
def test_what_names_no_subnet_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        subnet_from_text(SPACE, text)
