from dataclasses import replace

import pytest

from jdnas.presets import preset
from jdnas.spec import DetectorSpec, Stage
from jdnas.student.explain import explain, width_range


@pytest.fixture
def base() -> DetectorSpec:
    return preset("r18", 7)


def test_same_architecture_is_said_to_be_the_same(base: DetectorSpec) -> None:
    assert explain(base, preset("r18", 7)) == ["The architecture is the same; only the weights differ."]


def test_depth_and_inner_widths_of_one_stage(base: DetectorSpec) -> None:
    student = base.with_stage(2, Stage(256, (256, 192, 128)))
    assert explain(base, student) == ["Stage 3: 1 block more (2 → 3); inner widths 256 → 128–256 (−25 % on average)."]


def test_blocks_fewer(base: DetectorSpec) -> None:
    assert explain(base, base.with_stage(3, Stage(512, (512,)))) == ["Stage 4: 1 block fewer (2 → 1)."]


def test_output_width_takes_the_tied_stem_along(base: DetectorSpec) -> None:
    lines = explain(base, base.with_stage(0, replace(base.stages[0], width=48)))
    assert lines == ["Stem: 64 → 48 (−25 %) channels.", "Stage 1: output width 64 → 48 (−25 %)."]


def test_other_order_of_inner_widths(base: DetectorSpec) -> None:
    before, after = (base.with_stage(1, Stage(128, inner)) for inner in ((96, 128), (128, 96)))
    assert explain(before, after) == ["Stage 2: inner widths in another order (128, 96)."]


def test_neck_and_head(base: DetectorSpec) -> None:
    student = replace(base, neck=192, head=replace(base.head, width=512, proposals=300, anchor_ratios=(1.0, 2.0)))
    assert explain(base, student) == [
        "Neck (FPN): 256 → 192 (−25 %) channels.",
        "Box head width: 1024 → 512.",
        "Anchor ratios: 0.5, 1.0, 2.0 → 1.0, 2.0.",
        "Proposals per image: 1000 → 300.",
    ]


def test_every_field_of_the_head_has_words(base: DetectorSpec) -> None:
    shown = {"train_candidates": 1500, "detections": 50, "candidates": 500, "rpn_width": 128, "nms_iou": 0.6, "rpn_nms_iou": 0.8}
    for name, value in {**shown, "score_threshold": 0.1}.items():
        student = replace(base, head=replace(base.head, **{name: value}))
        lines = explain(base, student)
        trains_only = name.startswith("train_")
        assert (lines == ["The architecture is the same; only the weights differ."]) == trains_only


def test_another_family_lists_its_stages(base: DetectorSpec) -> None:
    lines = explain(base, preset("r50", 7))
    assert lines[0] == "Backbone family: resnet_basic → resnet_bottleneck."
    assert [line.split(":")[0] for line in lines[1:]] == ["Stage 1", "Stage 2", "Stage 3", "Stage 4"]


def test_width_range() -> None:
    assert (width_range((64, 64)), width_range((64, 48, 56))) == ("64", "48–64")


def test_extras_of_families() -> None:
    plain = preset("r50", 7)
    assert explain(plain, replace(plain, deformable=(1, 2, 3), modulated=True)) == ["Deformable stages: none → 2, 3, 4 (modulated)."]
    tailed = replace(preset("mobilenet_v2", 7), tail=1280)
    assert explain(tailed, replace(tailed, tail=640)) == ["Tail: 1280 channels → 640 channels."]
    squeezed = preset("mobilenet_v3", 7)
    stage = squeezed.stages[2]
    narrower = replace(stage, squeeze=(16, *stage.squeeze[1:]))
    (line,) = explain(squeezed, squeezed.with_stage(2, narrower))
    assert line.startswith("Stage 3: squeeze widths 24–32 → 16–32")
    convs = replace(plain, head=replace(plain.head, convs=(256,)))
    assert explain(plain, convs) == ["Box head convolutions: none → 256."]
