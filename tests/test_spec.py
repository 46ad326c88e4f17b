import json
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given

from jdnas.errors import ConfigError
from jdnas.presets import preset
from jdnas.spec import FAMILIES, DetectorSpec, Head, Stage
from tests.models.specs import QUICK, plain_spec, specs


@QUICK
@given(specs())
def test_specs_survive_json(spec: DetectorSpec) -> None:
    read = DetectorSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert read == spec
    assert hash(read) == hash(spec)
    assert read.key == spec.key


def test_keys_tell_architectures_apart() -> None:
    spec = preset("r50", 20)
    others = [preset("r50", 21), preset("r101", 20), replace(spec, neck=128), replace(spec, head=replace(spec.head, proposals=300))]
    assert len({spec.key, *(other.key for other in others)}) == 5
    assert len(spec.key) == 12
    assert int(spec.key, 16) >= 0


def test_specs_without_news_keep_their_keys_and_version() -> None:
    """Keys name candidates in run folders: these are those of version 1."""
    assert (preset("r18", 80).key, preset("r50", 20).key, preset("lite0", 3).key) == ("84461eaa8003", "bcb721d2fa53", "e78586bf599f")
    assert preset("r50", 20).to_dict()["version"] == 1
    newer = replace(preset("r50", 20), deformable=(2, 3)).to_dict()
    assert newer["version"] == 2 and newer["deformable"] == [2, 3] and "tail" not in newer


def test_specs_are_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        preset("r18", 2).neck = 1  # type: ignore[misc]


def test_with_stage_keeps_tied_widths() -> None:
    changed = plain_spec("resnet_basic", width=4).with_stage(0, Stage(6, (2,)))
    assert (changed.stem, changed.stages[0]) == (6, Stage(6, (2,)))
    assert plain_spec("resnet_bottleneck", width=4).with_stage(0, Stage(6, (2,))).stem == 4
    assert plain_spec("resnet_basic").with_stage(2, Stage(6, (2, 2, 2))).depths == (2, 2, 3, 2)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_has_its_constants_for_each_stage(family: str) -> None:
    traits = FAMILIES[family]
    assert len(traits.strides) == len(traits.kernels)
    strides = [2 * 2 ** (traits.block != "mbconv")]
    for stride in traits.strides:
        strides.append(strides[-1] * stride)
    assert [strides[tap + 1] for tap in traits.taps] == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "vgg"}, r"unknown backbone family 'vgg'; known: .*resnet_basic"),
        ({"stages": (Stage(4, (4,)),)}, "family 'resnet_basic' has 4 stages, got 1"),
        ({"neck": 0}, "must be at least 1"),
        ({"stages": (Stage(4, (4,)), Stage(4, ()), Stage(4, (4,)), Stage(4, (4,)))}, "must be at least 1"),
        ({"stem": 6}, r"needs stem == stages\[0\]\.width, got 6 and 4"),
        ({"stride_in_1x1": True}, "'resnet_basic' has no bottleneck blocks"),
        ({"head": Head(strides=(8, 16), anchor_sizes=(8, 16))}, r"must read the last stage, at stride 32; got strides \(8, 16\)"),
    ],
)
def test_impossible_specs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(plain_spec("resnet_basic", width=4), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "mask"}, "unknown head kind 'mask'; known: cascade, rcnn"),
        ({"strides": (4, 8)}, "one anchor size per level: 2 strides, 5 anchor_sizes"),
        ({"strides": (4, 8, 16, 32, 128)}, "strides above 32 must double"),
        ({"strides": (4, 8, 6, 32, 64)}, "strides must rise through 4, 8, 16 and 32, each at most twice"),
        ({"strides": (8, 32, 32, 32, 64)}, "strides must rise .* twice"),
        ({"fcs": 3}, "1 or 2 fcs, got 1 and 3"),
        ({"roi_sampling": -1}, "roi_sampling must be 0 .* or more, got -1"),
    ],
)
def test_impossible_heads_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Head(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("resnext_4d", {"stages": (Stage(4, (6,)),) * 4}, "inner widths of stage 0 of 'resnext_4d' must be multiples of 4"),
        ("mobilenet_v3", {"stages": (Stage(4, (4,)),) * 6}, "stage 2 of 'mobilenet_v3' needs 1 squeeze widths, got 0"),
        ("resnet_bottleneck", {"tail": 8}, "has no tail"),
        ("resnet_basic", {"deformable": (1,)}, "deformable stages need a bottleneck family, got 'resnet_basic'"),
        ("resnet_bottleneck", {"deformable": (4,)}, r"deformable must list stages of 0\.\.3 in order, got \(4,\)"),
    ],
)
def test_what_a_family_does_not_have_is_refused(family: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(plain_spec(family), **change)  # type: ignore[arg-type]


def test_an_unexpanded_block_has_the_width_of_the_stem() -> None:
    with pytest.raises(ConfigError, match=r"needs stages\[0\]\.inner\[0\] == stem, got 4 and 6"):
        replace(plain_spec("efficientnet_lite", width=4), stem=6)


def _malformed() -> list[tuple[object, str]]:
    data = preset("r18", 2).to_dict()
    without = {key: value for key, value in data.items() if key != "stages"}
    return [
        ([], "spec version 'list'"),
        ({**data, "version": 99}, "spec version 99 cannot be read; this jdnas reads versions 1 and 2"),
        (without, "malformed detector spec: 'stages'"),
        ({**data, "colour": 1}, "malformed detector spec: .*colour"),
        ({**data, "head": {"widht": 3}}, "malformed detector spec: .*widht"),
        ({**data, "stages": [{"width": "wide", "inner": [1]}] * 4}, "malformed detector spec: .*wide"),
    ]


@pytest.mark.parametrize(("data", "message"), _malformed())
def test_malformed_specs_are_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectorSpec.from_dict(data)
