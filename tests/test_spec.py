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
        ({"head": Head(roi_sampling=-1)}, "roi_sampling must be 0 .* or more, got -1"),
    ],
)
def test_impossible_specs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(plain_spec("resnet_basic", width=4), **change)  # type: ignore[arg-type]


def test_an_unexpanded_block_has_the_width_of_the_stem() -> None:
    with pytest.raises(ConfigError, match=r"needs stages\[0\]\.inner\[0\] == stem, got 4 and 6"):
        replace(plain_spec("efficientnet_lite", width=4), stem=6)


def _malformed() -> list[tuple[object, str]]:
    data = preset("r18", 2).to_dict()
    without = {key: value for key, value in data.items() if key != "stages"}
    return [
        ([], "spec version 'list'"),
        ({**data, "version": 99}, "spec version 99 cannot be read; this jdnas reads version 1"),
        (without, "malformed detector spec: 'stages'"),
        ({**data, "colour": 1}, "malformed detector spec: .*colour"),
        ({**data, "head": {"widht": 3}}, "malformed detector spec: .*widht"),
        ({**data, "stages": [{"width": "wide", "inner": [1]}] * 4}, "malformed detector spec: .*wide"),
    ]


@pytest.mark.parametrize(("data", "message"), _malformed())
def test_malformed_specs_are_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectorSpec.from_dict(data)
