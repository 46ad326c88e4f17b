from dataclasses import replace

import pytest
from hypothesis import given

from jdnas.models.complexity import (
    backbone_multiply_adds,
    backbone_parameters,
    layers,
    multiply_adds,
    parameters,
    parameters_per_part,
    per_part,
)
from jdnas.models.detector import build
from jdnas.presets import NAMES, preset
from jdnas.spec import DetectorSpec
from tests.models.specs import QUICK, SIZE_HW, counted, specs

GIGA = 1e9


def table(spec: DetectorSpec, size_hw: tuple[int, int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for layer in layers(spec, size_hw):
        name = f"{layer.name}.conv" if layer.norm else layer.name
        counts[name] = counts.get(name, 0) + layer.multiply_adds
    return counts


@QUICK
@given(specs())
def test_every_layer_equals_what_hooks_count(spec: DetectorSpec) -> None:
    assert table(spec, SIZE_HW) == counted(build(spec, device="meta").eval(), SIZE_HW)


@pytest.mark.parametrize("size_hw", [(800, 1333), (75, 101)])
@pytest.mark.parametrize("name", ["r18", "r50"])
def test_odd_sizes_equal_what_hooks_count(name: str, size_hw: tuple[int, int]) -> None:
    spec = preset(name, 80)
    assert table(spec, size_hw) == counted(build(spec, device="meta").eval(), size_hw)


def test_a_stride_in_the_first_convolution_makes_the_second_cheaper() -> None:
    spec = preset("r50", 80)
    caffe = replace(spec, stride_in_1x1=True)
    assert table(caffe, (75, 101)) == counted(build(caffe, device="meta").eval(), (75, 101))
    assert parameters(caffe) == parameters(spec) and multiply_adds(caffe, (800, 1333)) < multiply_adds(spec, (800, 1333))


@QUICK
@given(specs())
def test_parameters_equal_those_of_the_module(spec: DetectorSpec) -> None:
    detector = build(spec, device="meta")
    assert parameters(spec) == sum(p.numel() for p in detector.parameters())
    assert backbone_parameters(spec) == sum(p.numel() for p in detector.backbone.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_presets_equal_their_modules(name: str) -> None:
    spec = preset(name, 20)
    detector = build(spec, device="meta").eval()
    assert parameters(spec) == sum(p.numel() for p in detector.parameters())
    assert table(spec, (256, 320)) == counted(detector, (256, 320))


@pytest.mark.parametrize(("name", "giga"), [("r18", 160.5), ("r50", 215.8), ("r101", 295.7)])
def test_whole_detectors_match_the_paper(name: str, giga: float) -> None:
    """Joint-DetNAS, Table 4: input 1333 x 800, 80 classes, 1000 proposals."""
    assert multiply_adds(preset(name, 80), (800, 1333)) / GIGA == pytest.approx(giga, rel=0.015)


@pytest.mark.parametrize(("name", "giga"), [("r50", 84.1), ("r101", 160.2)])
def test_backbones_match_the_paper(name: str, giga: float) -> None:
    """Joint-DetNAS, Table 2; its figures fit an input of 1280 x 800."""
    assert backbone_multiply_adds(preset(name, 80), (800, 1280)) / GIGA == pytest.approx(giga, rel=0.015)


def test_the_papers_x101_is_32x4d_at_1280x800() -> None:
    """Joint-DetNAS, Table 4, gives 286.9 G for 1333 x 800: that is the 32x4d at 1280 x 800, and no other variant comes near."""
    found = {
        (variant, size): multiply_adds(preset(f"x101_{variant}", 80), size) / GIGA
        for variant in ("32x4d", "32x8d", "64x4d")
        for size in ((800, 1280), (800, 1333))
    }
    assert found["32x4d", (800, 1280)] == pytest.approx(286.9, rel=0.015)
    assert [key for key, giga in found.items() if abs(giga / 286.9 - 1) < 0.015] == [("32x4d", (800, 1280))]


def test_a_cascade_adds_two_box_heads_and_deformable_stages_their_offsets() -> None:
    plain, cascade, dcn = (multiply_adds(preset(name, 80), (64, 96)) for name in ("r50", "r50-cascade", "r50-dcn"))
    one = 1000 * (256 * 49 * 1024 + 1024**2 + 1024 * (81 + 4))
    assert cascade - plain == 3 * one - 1000 * (256 * 49 * 1024 + 1024**2 + 1024 * 5 * 81)
    # 18 numbers from a 3x3 window at every position of stages at strides 8, 16 and 32.
    assert dcn - plain == 9 * 18 * (4 * 128 * 8 * 12 + 6 * 256 * 4 * 6 + 3 * 512 * 2 * 3)


@QUICK
@given(specs())
def test_parts_sum_to_the_whole(spec: DetectorSpec) -> None:
    parts = per_part(spec, SIZE_HW)
    stages = {f"backbone.s{i}" for i in range(len(spec.stages))}
    assert set(parts) == {"backbone.stem", *stages, *(["backbone.tail"] if spec.tail else []), "neck", "rpn", "roi"}
    assert sum(parameters_per_part(spec).values()) == parameters(spec)
    assert sum(parts.values()) == multiply_adds(spec, SIZE_HW)
    assert sum(count for part, count in parts.items() if part.startswith("backbone")) == backbone_multiply_adds(spec, SIZE_HW)


def test_a_layer_worked_by_hand() -> None:
    stem = layers(preset("r50", 80), (64, 96))[0]
    assert (stem.name, stem.height, stem.width, stem.kernel, stem.in_width, stem.out_width) == ("backbone.stem", 32, 48, 7, 3, 64)
    assert stem.multiply_adds == 32 * 48 * 7 * 7 * 3 * 64
    assert stem.parameters == 7 * 7 * 3 * 64 + 2 * 64
