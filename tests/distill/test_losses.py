import math

import pytest
import torch

from jdnas.distill.adapters import identity_adapter
from jdnas.distill.losses import classification_loss, feature_loss, localization_loss, standardize


def test_feature_loss_by_hand() -> None:
    # One positive RoI, one channel, every one of the 49 points off by 2: sum of squares 49 * 4 over 49 points.
    student, teacher = torch.zeros(2, 1, 7, 7), torch.full((2, 1, 7, 7), 2.0)
    loss = feature_loss(student, teacher, torch.tensor([True, False]), identity_adapter(1, 1))
    assert loss.item() == pytest.approx(4.0)


def test_feature_loss_follows_the_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(3, 2, 7, 7, generator=generator), torch.randn(3, 4, 7, 7, generator=generator)
    adapter = torch.randn(4, 2, 1, 1, generator=generator)
    positive = torch.tensor([True, False, True])
    total, points = 0.0, 0
    for n in range(3):
        if not positive[n]:
            continue
        for i in range(7):
            for j in range(7):
                points += 1
                for c in range(4):
                    adapted = sum(float(adapter[c, k, 0, 0]) * float(student[n, k, i, j]) for k in range(2))
                    total += (adapted - float(teacher[n, c, i, j])) ** 2
    assert feature_loss(student, teacher, positive, adapter).item() == pytest.approx(total / points, rel=1e-5)


def test_feature_loss_without_positives_is_zero_and_has_no_gradient() -> None:
    student = torch.randn(2, 3, 7, 7, requires_grad=True)
    loss = feature_loss(student, torch.randn(2, 3, 7, 7), torch.tensor([False, False]), identity_adapter(3, 3))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None and not student.grad.any()


def test_normalized_features_do_not_care_about_scale() -> None:
    features = torch.randn(5, 3, 7, 7, generator=torch.Generator().manual_seed(1))
    loss = feature_loss(features, 10 * features + 3, torch.ones(5, dtype=torch.bool), identity_adapter(3, 3), normalize=True)
    assert loss.item() < 1e-6


def test_classification_loss_by_hand() -> None:
    # Teacher says (1/4, 3/4), student (1/2, 1/2): cross entropy ln 2.
    teacher = torch.tensor([[0.0, math.log(3.0)], [50.0, 0.0]])
    loss = classification_loss(torch.zeros(2, 2), teacher, torch.tensor([True, False]))
    assert loss.item() == pytest.approx(math.log(2))


def test_localization_loss_follows_the_equation() -> None:
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(4, 3, 4, generator=generator), torch.randn(4, 3, 4, generator=generator)
    logits, valid = torch.randn(4, 3, generator=generator), torch.tensor([True, True, False, True])
    total = 0.0
    for n in range(4):
        if valid[n]:
            scores = [math.exp(float(v)) for v in logits[n]]
            scores = [s / sum(scores) for s in scores]
            for k in range(4):
                total += abs(sum(scores[c] * (float(teacher[n, c, k]) - float(student[n, c, k])) for c in (1, 2)))
    assert localization_loss(student, teacher, logits, valid).item() == pytest.approx(total / 3, rel=1e-5)


def test_equal_student_and_teacher_have_no_feature_and_box_loss() -> None:
    features, deltas, logits = torch.randn(3, 4, 7, 7), torch.randn(3, 5, 4), torch.randn(3, 5)
    everything = torch.ones(3, dtype=torch.bool)
    assert feature_loss(features, features, everything, identity_adapter(4, 4)).item() == 0
    assert localization_loss(deltas, deltas, logits, everything).item() == 0


def test_classification_loss_follows_the_equation() -> None:
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(5, 4, generator=generator), 2 * torch.randn(5, 4, generator=generator)
    valid = torch.tensor([True, False, True, True, False])
    total = 0.0
    for n in range(5):
        if valid[n]:
            target, given = (torch.exp(rows[n].double()) / torch.exp(rows[n].double()).sum() for rows in (teacher, student))
            total -= sum(float(target[k]) * math.log(float(given[k])) for k in range(4))
    assert classification_loss(student, teacher, valid).item() == pytest.approx(total / 3, rel=1e-5)


def test_temperature_by_hand() -> None:
    # Logits (0, 2 ln 3) at T = 2 are (0, ln 3): probabilities (1/4, 3/4); the student's are equal: T^2 ln 2.
    loss = classification_loss(torch.zeros(1, 2), torch.tensor([[0.0, 2 * math.log(3.0)]]), torch.tensor([True]), temperature=2.0)
    assert loss.item() == pytest.approx(4 * math.log(2))


def test_equal_scores_leave_only_the_entropy_and_no_gradient() -> None:
    # The formula is a cross entropy: with equal scores it is the teacher's entropy, which no student gets below.
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64).float().requires_grad_()
    loss = classification_loss(logits, logits.detach(), torch.ones(6, dtype=torch.bool))
    loss.backward()
    probabilities = logits.detach().softmax(-1)
    assert loss.item() == pytest.approx(-float((probabilities * probabilities.log()).sum(-1).mean()), rel=1e-5)
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6


def test_localization_loss_by_hand() -> None:
    # Scores 1/4 background, 1/4 and 1/2 foreground; differences 4 and -2 in every coordinate: |1 - 1| = 0. Then 4 and 2: |1 + 1| x 4.
    logits = torch.tensor([[0.0, 0.0, math.log(2.0)]])
    student, teacher = torch.zeros(1, 3, 4), torch.tensor([[[99.0] * 4, [4.0] * 4, [-2.0] * 4]])
    valid = torch.tensor([True])
    assert localization_loss(student, teacher, logits, valid).item() == pytest.approx(0.0, abs=1e-6)
    teacher[0, 2] = 2.0
    assert localization_loss(student, teacher, logits, valid).item() == pytest.approx(8.0)


def test_standardize_looks_only_at_the_counted_points() -> None:
    features = torch.tensor([1.0, 3.0, 1000.0]).reshape(3, 1, 1, 1)
    counts = torch.tensor([True, True, False]).reshape(3, 1, 1, 1)
    assert standardize(features, counts)[:2].flatten().tolist() == pytest.approx([-1.0, 1.0], abs=1e-4)


def test_other_rois_have_no_part_in_normalized_features() -> None:
    generator = torch.Generator().manual_seed(6)
    student, teacher = torch.randn(4, 3, 7, 7, generator=generator), torch.randn(4, 3, 7, 7, generator=generator)
    positive = torch.tensor([True, True, False, False])
    adapter = identity_adapter(3, 3)
    masked = feature_loss(student, teacher, positive, adapter, normalize=True)
    cut = feature_loss(student[:2], teacher[:2], positive[:2], adapter, normalize=True)
    assert masked.item() == pytest.approx(cut.item(), rel=1e-6)


def test_half_precision_features_are_compared_in_float32() -> None:
    student, teacher = torch.full((1, 2, 7, 7), 300.0, dtype=torch.bfloat16), torch.zeros(1, 2, 7, 7, dtype=torch.bfloat16)
    loss = feature_loss(student, teacher, torch.tensor([True]), identity_adapter(2, 2))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(2 * 300.0**2)
