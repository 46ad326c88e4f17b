"""A teacher on the student's batch: any family for any family, without gradient."""

from dataclasses import replace

import pytest
import torch

from jdnas.distill.adapters import FEATURE, IMITATION, identity_adapter, make_adapters
from jdnas.distill.imitation import imitation_loss, imitation_masks
from jdnas.distill.inputs import renormalized
from jdnas.distill.losses import feature_loss
from jdnas.distill.settings import DistillSettings
from jdnas.distill.step import distill_terms, imitation_terms, positive_rows, warmup_factor
from jdnas.distill.teacher import Teacher, half_precision
from jdnas.errors import ConfigError
from jdnas.models.detector import Detector, LossOutput, build
from jdnas.presets import preset, scale_backbone
from jdnas.spec import FAMILIES, DetectorSpec

SIZES = torch.tensor([[64, 64], [48, 40]])
BOXES = torch.tensor([[[4.0, 4.0, 30.0, 40.0]], [[2.0, 10.0, 30.0, 40.0]]])
EVERYTHING = DistillSettings(imitation=1.0)


def small(base: str, neck: int = 8) -> DetectorSpec:
    spec = scale_backbone(preset(base, 2), 0.125)
    head = replace(spec.head, width=16, rpn_width=8, proposals=10, candidates=20, train_proposals=20, train_candidates=20, roi_samples=8)
    return replace(spec, neck=neck, head=replace(head, anchor_sizes=(8, 16, 32, 64, 128)))


def make(base: str, neck: int = 8, seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return build(small(base, neck))


class Truth:
    boxes_xyxy, labels, valid = BOXES, torch.tensor([[1], [2]]), torch.ones(2, 1, dtype=torch.bool)


def images() -> torch.Tensor:
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    pixels[1, :, 48:] = 0
    pixels[1, :, :, 40:] = 0
    return pixels


def losses(student: Detector) -> LossOutput:
    return student.train().losses(images(), SIZES, Truth(), torch.Generator().manual_seed(0))


def all_terms(student: Detector, teacher: Detector, adapters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    output = losses(student)
    lesson = Teacher.fixed(teacher.eval(), student.spec).teach(images(), SIZES)
    terms = distill_terms(output, lesson, adapters, EVERYTHING)
    return terms | imitation_terms(output, lesson, adapters, EVERYTHING, head=student.spec.head, truth=(BOXES, Truth.valid))


@pytest.mark.parametrize(
    ("student", "teacher"), [("r18", "r50"), ("lite0", "r34"), ("r50", "x50_32x4d"), ("mobilenet_v2", "lite0"), ("r18", "mobilenet_v3")]
)
def test_any_family_teaches_any_other_and_only_the_student_learns(student: str, teacher: str) -> None:
    pupil, master = make(student), make(teacher, neck=16, seed=1)
    adapters = {name: tensor.requires_grad_() for name, tensor in make_adapters(8, 16, EVERYTHING).items()}
    terms = all_terms(pupil, master, adapters)
    assert set(terms) == {"distill_feature", "distill_class", "distill_box", "distill_imitation"}
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(adapter.grad is not None and adapter.grad.any() for adapter in adapters.values())
    assert all(parameter.grad is None for parameter in master.parameters())
    assert pupil.backbone.stem.conv.weight.grad is not None and pupil.backbone.stem.conv.weight.grad.any()
    assert pupil.box_head.box_deltas.weight.grad is not None and pupil.box_head.box_deltas.weight.grad.any()


def test_a_student_that_is_its_teacher_has_nothing_to_learn_but_the_entropy() -> None:
    # Both in evaluation mode, so that both see the same features.
    detector = make("r18")
    with torch.no_grad():
        output = losses(detector)
        detector.eval()
        pyramid = detector.features(images())
        boxes = BOXES.expand(2, 4, 4).contiguous()
        features = detector.roi_features(pyramid, boxes)
        logits, deltas = detector.box_head(features)
        output = output._replace(roi_features=features, class_logits=logits, box_deltas=deltas)
        proposals = output.proposals._replace(boxes_xyxy=boxes, valid=torch.ones(2, 4, dtype=torch.bool))
        output = output._replace(pyramid=pyramid, proposals=proposals, labels=torch.ones(2, 4, dtype=torch.int64))
        lesson = Teacher.fixed(detector, detector.spec).teach(images(), SIZES)
        terms = distill_terms(output, lesson, {FEATURE: identity_adapter(8, 8)}, DistillSettings())
    scores = logits.flatten(0, 1).softmax(-1)
    assert terms["distill_feature"].item() == pytest.approx(0, abs=1e-9)
    assert terms["distill_box"].item() == pytest.approx(0, abs=1e-7)
    assert terms["distill_class"].item() == pytest.approx(-float((scores * scores.log()).sum(-1).mean()), rel=1e-5)


def test_weights_of_zero_leave_terms_out() -> None:
    pupil, master = make("r18"), make("r18", seed=1).eval()
    lesson = Teacher.fixed(master, pupil.spec).teach(images(), SIZES)
    assert set(distill_terms(losses(pupil), lesson, {}, DistillSettings().for_method("logit"))) == {"distill_class"}
    assert distill_terms(losses(pupil), lesson, {}, DistillSettings().for_method("fgfi")) == {}
    double = DistillSettings(feature=0, classification=2, localization=0)
    once = distill_terms(losses(pupil), lesson, {}, double.model_copy(update={"classification": 1.0}))
    assert distill_terms(losses(pupil), lesson, {}, double)["distill_class"].item() == pytest.approx(2 * once["distill_class"].item())


def test_pyramid_levels_are_matched_by_their_strides() -> None:
    # A teacher without the level at stride 4 teaches the others; its own levels are not taken for neighbours of the student's.
    pupil, wide = make("r18"), small("r18", neck=16)
    head = replace(wide.head, strides=wide.head.strides[1:], anchor_sizes=wide.head.anchor_sizes[1:])
    master = build(replace(wide, head=head)).eval()
    lesson = Teacher.fixed(master, pupil.spec).teach(images(), SIZES)
    assert lesson.strides == (8, 16, 32, 64)
    output, adapters = losses(pupil), make_adapters(8, 16, EVERYTHING)
    found = imitation_terms(output, lesson, adapters, EVERYTHING, head=pupil.spec.head, truth=(BOXES, Truth.valid))
    maps_hw = [(level.shape[2], level.shape[3]) for level in output.pyramid]
    masks = imitation_masks(maps_hw, pupil.spec.head, BOXES, Truth.valid)
    expected = imitation_loss(output.pyramid[1:], lesson.pyramid, masks[1:], adapters[IMITATION])
    assert found["distill_imitation"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.isfinite(distill_terms(output, lesson, adapters, DistillSettings())["distill_feature"])


def test_looking_at_positive_rows_only_changes_nothing() -> None:
    positive = torch.rand(32, generator=torch.Generator().manual_seed(0)) > 0.8
    assert positive.sum() <= 8
    rows = positive_rows(positive)
    assert len(rows) == len(set(rows.tolist())) == 8 and set(positive.nonzero().flatten().tolist()) <= set(rows.tolist())
    features, others = torch.randn(32, 3, 7, 7), torch.randn(32, 3, 7, 7)
    for normalize in (False, True):
        whole = feature_loss(features, others, positive, identity_adapter(3, 3), normalize=normalize)
        part = feature_loss(features[rows], others[rows], positive[rows], identity_adapter(3, 3), normalize=normalize)
        assert part.item() == pytest.approx(whole.item(), rel=1e-5)


def test_warmup_rises_linearly_to_one() -> None:
    settings = DistillSettings(warmup=0.5)
    assert [warmup_factor(step, 8, settings) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup_factor(0, 8, DistillSettings()) == 1.0


def test_the_share_that_is_taught() -> None:
    assert [DistillSettings().share_taught(epochs) for epochs in (0.5, 20.0)] == [1.0, 1.0]
    assert [DistillSettings(until_epochs=2.0).share_taught(epochs) for epochs in (1.0, 2.0, 8.0)] == [1.0, 1.0, 0.25]


def test_batches_are_renormalized_inside_the_images_only() -> None:
    raw = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    inside = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    inside[0], inside[1, :, :48, :40] = True, True

    def normalized(family: str) -> torch.Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in (FAMILIES[family].mean, FAMILIES[family].std))
        return torch.where(inside, (raw - mean) / std, 0.0)

    have, want = FAMILIES["resnet_basic"], FAMILIES["efficientnet_lite"]
    found = renormalized(normalized("resnet_basic"), SIZES, have, want)
    assert torch.allclose(found, normalized("efficientnet_lite"), atol=1e-5)
    assert renormalized(raw, SIZES, have, FAMILIES["resnet_bottleneck"]) is raw


def test_teacher_of_another_family_sees_its_own_normalization() -> None:
    seen = []
    master = make("lite0").eval()
    master.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    Teacher.fixed(master, small("r18")).teach(images(), SIZES)
    assert torch.equal(seen[0], renormalized(images(), SIZES, FAMILIES["resnet_basic"], FAMILIES["efficientnet_lite"]))


def test_teacher_and_student_need_the_same_classes() -> None:
    with pytest.raises(ConfigError, match="teacher knows 3 classes and the student 2"):
        Teacher.fixed(build(replace(small("r18"), num_classes=3)), small("r18"))


def test_every_resolution_has_its_own_teacher_and_asks_for_it_once() -> None:
    asked = []

    def detector_for(size_hw: tuple[int, int]) -> Detector:
        asked.append(size_hw)
        return make("r18").eval()

    teacher = Teacher(small("r18"), detector_for, small("r18"))
    for side in (64, 32, 64):
        teacher.teach(torch.zeros(1, 3, side, side), torch.tensor([[side, side]]))
    assert asked == [(64, 64), (32, 32)]


def test_half_precision_keeps_norms_and_is_close() -> None:
    master = make("r18").eval()
    before = master.features(images())[0]
    half_precision(master)
    assert master.backbone.stem.conv.weight.dtype == torch.bfloat16
    assert master.backbone.stem.norm.weight.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        after = master.features(images())[0]
    assert after.dtype == torch.bfloat16
    assert (after.float() - before).norm() / before.norm() < 0.05


@pytest.mark.gpu
def test_teacher_on_a_gpu_runs_in_half_precision() -> None:
    master = make("r18").eval().cuda()
    with torch.autocast("cuda", torch.bfloat16):
        lesson = Teacher.fixed(master, small("r18")).teach(images().cuda(), SIZES.cuda())
    assert lesson.pyramid[0].dtype == torch.bfloat16
    assert master.backbone.stem.conv.weight.dtype == torch.bfloat16
