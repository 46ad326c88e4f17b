from dataclasses import replace

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
        ("x50_32x4d", 2048, 25_028_904),
        ("x101_32x8d", 2048, 88_791_336),
        ("x101_64x4d", 2048, 83_455_272),
    ],
)
def test_resnets_have_the_published_number_of_parameters(name: str, classifier: int, published: int) -> None:
    """Torchvision's ImageNet models, less their classifier for 1000 classes."""
    assert backbone_parameters(preset(name, 80)) == published - 1000 * (classifier + 1)


@pytest.mark.parametrize(
    ("name", "published"),
    [("lite0", 4_652_008), ("lite1", 5_416_680), ("lite2", 6_092_072), ("lite3", 8_197_096), ("lite4", 13_006_568)],
)
def test_lites_have_the_published_number_of_parameters(name: str, published: int) -> None:
    """The ImageNet models, less their classifier and their last convolution to 1280 channels with norm."""
    spec = preset(name, 80)
    last = spec.stages[-1].width
    assert last == {"lite3": 384, "lite4": 448}.get(name, 352 if name == "lite2" else 320)
    assert backbone_parameters(spec) == published - 1000 * 1281 - 1280 * (last + 2)


def test_mobilenets_have_the_published_number_of_parameters() -> None:
    """Torchvision's ImageNet models, less the layers after the last map of ours."""
    assert backbone_parameters(preset("mobilenet_v2", 80)) == 3_504_872 - 1000 * 1281 - 1280 * (320 + 2)
    assert backbone_parameters(preset("mobilenet_v3", 80)) == 5_483_032 - 1280 * (960 + 1) - 1000 * 1281


@pytest.mark.parametrize("name", NAMES)
def test_presets_take_any_number_of_classes_and_survive_json(name: str) -> None:
    spec = preset(name, 7)
    assert spec.num_classes == 7
    assert DetectorSpec.from_dict(spec.to_dict()) == spec


def test_extras_follow_the_name() -> None:
    spec = preset("x101_32x4d-dcn-cascade", 3)
    assert (spec.deformable, spec.modulated, spec.head.kind) == ((1, 2, 3), False, "cascade")
    assert preset("r50-mdcn", 3) == replace(preset("r50", 3), deformable=(1, 2, 3), modulated=True)
    with pytest.raises(ConfigError, match="unknown extra of base 'r50' 'mask'; known: cascade, dcn, mdcn"):
        preset("r50-mask", 3)
    with pytest.raises(ConfigError, match="deformable stages need a bottleneck family"):
        preset("r18-dcn", 3)


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
    assert all(w % 8 == 0 for s in wide.stages for w in (s.width, *s.inner, *s.squeeze))
    assert all(w % (g or 1) == 0 for s, g in zip(wide.stages, wide.traits.group_widths, strict=True) for w in s.inner)
    assert scale_backbone(spec, 1.0) == spec
