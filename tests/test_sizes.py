import pytest

from jdnas.errors import ConfigError
from jdnas.sizes import size_hw_from_text


def test_width_comes_first_in_text_and_last_in_the_pair() -> None:
    assert size_hw_from_text("1333x800") == (800, 1333)


@pytest.mark.parametrize(
    "text", ["", "640", "640x", "x640", "0x32", "32x0", "-1x32", "640X480", "640 x 480", "1.5x2", "640x480x3", "640x480\n"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
        size_hw_from_text(text)
