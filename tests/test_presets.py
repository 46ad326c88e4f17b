import pytest

from jdnas.errors import ConfigError
from jdnas.models.complexity import backbone_parameters
from jdnas.presets import NAMES, preset, round_width, scale_backbone
from jdnas.spec import DetectorSpec


@pytest.mark.parametrize(
    ("name", "classifier", "published"),
    [
        ("r18", 512, 11_689_512),
        ("r34", 512, 21_797_672),
        ("r50", 2048, 25_557_032),
        ("r101", 2048, 44_549_160),
        ("r152", 2048, 60_192_808),
    ],
)
def test_resnets_have_the_published_number_of_parameters(name: str, classifier: int, published: int) -> None:
    """Torchvision's ImageNet models, less their classifier for 1000 classes."""
    assert backbone_parameters(preset(name, 80)) == published - 1000 * (classifier + 1)


def test_lite0_has_the_published_number_of_parameters() -> None:
    """EfficientNet-Lite0 has 4,652,008, less its classifier and its last convolution from 320 to 1280 channels with norm."""
    assert backbone_parameters(preset("lite0", 80)) == 4_652_008 - 1000 * 1281 - 1280 * (320 + 2)


@pytest.mark.parametrize("name", NAMES)
def test_presets_take_any_number_of_classes_and_survive_json(name: str) -> None:
    spec = preset(name, 7)
    assert spec.num_classes == 7
    assert DetectorSpec.from_dict(spec.to_dict()) == spec


def test_unknown_presets_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown base 'r19'; known: .*r18.*jdnas bases"):
        preset("r19", 1)


@pytest.mark.parametrize(("width", "step", "rounded"), [(20, 8, 24), (19.9, 8, 16), (1, 8, 8), (64, 8, 64), (96, 32, 96), (3, 1, 3)])
def test_widths_round_to_the_nearest_step(width: float, step: int, rounded: int) -> None:
    assert round_width(width, step) == rounded


@pytest.mark.parametrize("name", NAMES)
def test_scaled_backbones_are_valid_and_proportional(name: str) -> None:
    spec = preset(name, 2)
    wide = scale_backbone(spec, 1.5)
    assert wide.depths == spec.depths
    assert wide.neck == spec.neck
    assert [s.width for s in wide.stages] == [round_width(1.5 * s.width, 8) for s in spec.stages]
    assert all(w % 8 == 0 for s in wide.stages for w in (s.width, *s.inner))
    assert scale_backbone(spec, 1.0) == spec
