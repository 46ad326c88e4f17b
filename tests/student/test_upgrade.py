"""Upgrades keep what a detector computes where they can; the rest is worked by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jdnas.errors import ConfigError
from jdnas.models.boxes import decode
from jdnas.models.cascade import DELTA_WEIGHTS
from jdnas.models.detector import build
from jdnas.models.weights import check_state
from jdnas.spec import DetectorSpec
from jdnas.student.upgrade import upgrade, upgraded_spec
from tests.models.specs import QUICK, images, largest_difference, outputs, plain_spec, random_state, specs
from tests.student.helpers import gradients

BOTTLENECKS = ("resnet_bottleneck", "resnext_4d")


@pytest.mark.parametrize("modulated", [False, True])
@QUICK
@given(specs(families=BOTTLENECKS), st.sampled_from([(1, 2, 3), (3,), (0, 1)]))
def test_new_deformable_stages_compute_what_plain_ones_did(modulated: bool, spec: DetectorSpec, stages: tuple[int, ...]) -> None:
    spec = replace(spec, deformable=(), modulated=False)
    state = random_state(spec)
    target = upgraded_spec(spec, deformable=stages, modulated=modulated)
    upgraded = upgrade(state, spec, target)
    assert target.deformable == stages and target.modulated == modulated
    assert largest_difference(outputs(target, upgraded), outputs(spec, state)) < 1e-4


@QUICK
@given(specs(families=BOTTLENECKS), st.booleans())
def test_upgraded_detectors_train_with_a_gradient_on_every_parameter(spec: DetectorSpec, modulated: bool) -> None:
    spec = replace(spec, deformable=(), modulated=False, head=replace(spec.head, kind="rcnn"))
    target = upgraded_spec(spec, deformable=(1, 2, 3), modulated=modulated, cascade=True)
    upgraded = upgrade(random_state(spec), spec, target)
    check_state(upgraded, target)
    found = gradients(target, upgraded, 0)
    assert found.keys() == {name for name, _ in build(target, device="meta").named_parameters()}
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_heads_of_a_new_cascade_move_a_box_as_the_box_head_does_on_average() -> None:
    spec = plain_spec("resnet_basic")
    state = random_state(spec)
    target = upgraded_spec(spec, cascade=True)
    upgraded = upgrade(state, spec, target)
    before, after = build(spec).eval(), build(target).eval()
    before.load_state_dict(state)
    after.load_state_dict(upgraded)
    features = torch.randn(1, 3, spec.neck, 7, 7, generator=torch.Generator().manual_seed(1))
    rois = torch.tensor([[[4.0, 4, 24, 20], [0, 0, 10, 10], [5, 9, 50, 60]]])
    with torch.no_grad():
        logits, deltas = before.box_head(features)
        mean = deltas[:, :, 1:].mean(2)  # of the two classes, without the background
        expected = decode(mean, rois, DELTA_WEIGHTS[0])
        for index, head in enumerate((after.box_head, *after.cascade)):
            its_logits, its_deltas = head(features)
            torch.testing.assert_close(its_logits, logits)
            torch.testing.assert_close(decode(its_deltas.squeeze(2), rois, DELTA_WEIGHTS[index]), expected, atol=1e-3, rtol=1e-4)
            # 20 / 10 and 30 / 10, for shifts and scales alike.
            torch.testing.assert_close(its_deltas.squeeze(2), (index + 1) * mean, atol=1e-5, rtol=1e-5)


def test_what_is_there_stays_as_it_was() -> None:
    spec = replace(plain_spec("resnet_bottleneck"), deformable=(3,), modulated=True)
    spec = replace(spec, head=replace(spec.head, kind="cascade"))
    state = random_state(spec)
    target = upgraded_spec(spec, deformable=(2,), modulated=True)
    assert target.deformable == (2, 3)
    upgraded = upgrade(state, spec, target)
    same = [name for name in state if not name.startswith("backbone.stages.2.")]
    assert all(torch.equal(upgraded[name], state[name]) for name in same)
    upgraded["backbone.stem.conv.weight"].zero_()
    assert state["backbone.stem.conv.weight"].abs().sum() > 0  # a copy


def test_detections_of_a_cascade_are_those_of_one_head_looked_at_three_times() -> None:
    """Where the box head never moves a box, three equal heads see the same boxes and agree with the one."""
    spec = plain_spec("resnet_basic")
    spec = replace(spec, head=replace(spec.head, score_threshold=0.0))
    state = random_state(spec)
    for name in ("box_head.box_deltas.weight", "box_head.box_deltas.bias"):
        state[name].zero_()
    target = upgraded_spec(spec, cascade=True)
    before, after = build(spec).eval(), build(target).eval()
    before.load_state_dict(state)
    after.load_state_dict(upgrade(state, spec, target))
    with torch.no_grad():
        sizes = torch.tensor([[64, 96]] * 2)
        one, three = before(images(), sizes), after(images(), sizes)
    torch.testing.assert_close(three.boxes_xyxy, one.boxes_xyxy)
    torch.testing.assert_close(three.scores, one.scores)
    assert torch.equal(three.labels, one.labels)


@pytest.mark.parametrize(
    ("spec", "asked", "message"),
    [
        (plain_spec("resnet_basic"), {"deformable": (1,)}, "deformable stages need a bottleneck family, got 'resnet_basic'"),
        (plain_spec("resnet_bottleneck"), {}, "nothing to upgrade"),
        (replace(plain_spec("resnet_bottleneck"), deformable=(1,)), {"deformable": (1,)}, "nothing to upgrade"),
        (replace(plain_spec("resnet_bottleneck"), deformable=(1,)), {"deformable": (2,), "modulated": True}, "are not modulated"),
        (plain_spec("resnet_bottleneck"), {"deformable": (7,)}, r"deformable must list stages of 0\.\.3"),
    ],
)
def test_refusals(spec: DetectorSpec, asked: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        upgraded_spec(spec, **asked)
