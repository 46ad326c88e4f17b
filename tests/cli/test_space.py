import pytest

from tests.cli.conftest import Call


def test_paper_space_has_the_papers_size(jdnas: Call) -> None:
    answer = jdnas("teacher", "space", "--preset", "paper", "--samples", 2)
    words = " ".join(answer.out.split())
    assert answer.code == 0
    assert words.startswith("192,456 subnets x 4 resolutions = 769,824: depths 2 to 3, 2 to 4, 2 to 23, 2 to 3;")
    assert "random 1" in words and "random 2" not in words


@pytest.mark.parametrize("base", ["r18", "x50_32x4d", "mobilenet_v2", "lite0"])
def test_every_base_has_a_space(jdnas: Call, base: str) -> None:
    answer = jdnas("teacher", "space", "--base", base, "--preset", "custom", "--samples", 1)
    assert answer.code == 0 and "largest" in answer.out and "for every stage and the neck" in " ".join(answer.out.split())
