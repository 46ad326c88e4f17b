import math

import torch

from jdnas.models.losses import roi_losses, rpn_losses


def test_rpn_losses_by_hand():
    objectness = torch.tensor([[0.0, 0.0, 9.0], [0.0, 9.0, 9.0]])
    positive = torch.tensor([[True, False, False], [False, False, False]])
    sampled = torch.tensor([[True, True, False], [True, False, False]])
    deltas, targets = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    targets[0, 0] = torch.tensor([1.0, 0.05, 0, 0])  # 1 - beta / 2 on the straight part, 0.05^2 / (2 beta) on the curved one
    targets[0, 1] = 7.0  # a negative: not regressed
    score, box = rpn_losses(objectness, deltas, targets, positive, sampled)
    torch.testing.assert_close(score, torch.tensor(math.log(2)))
    torch.testing.assert_close(box, torch.tensor((1 - 1 / 18 + 0.0025 * 9 / 2) / 3))


def test_roi_losses_by_hand():
    logits = torch.zeros(1, 4, 3)
    labels = torch.tensor([[0, 2, -1, 1]])
    deltas, targets = torch.zeros(1, 4, 3, 4), torch.zeros(1, 4, 4)
    deltas[0, 1, 2] = torch.tensor([2.0, 0, 0, 0])  # the label's own class
    deltas[0, 1, 1] = 100.0  # another class: not looked at
    deltas[0, 2] = 100.0  # padding
    classifier, box = roi_losses(logits, deltas, labels, targets)
    torch.testing.assert_close(classifier, torch.tensor(math.log(3)))
    torch.testing.assert_close(box, torch.tensor((2 - 1 / 18) / 3))


def test_nothing_sampled_gives_zero():
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    assert sum(rpn_losses(torch.randn(1, 2), torch.randn(1, 2, 4), torch.randn(1, 2, 4), nothing, nothing)) == 0
    assert sum(roi_losses(torch.randn(1, 2, 3), torch.randn(1, 2, 3, 4), torch.full((1, 2), -1), torch.randn(1, 2, 4))) == 0


def test_non_finite_targets_of_uncounted_rows_leave_no_trace():
    logits, deltas = torch.randn(1, 2, 3, requires_grad=True), torch.randn(1, 2, 3, 4, requires_grad=True)
    targets = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [math.nan, math.inf, -math.inf, 0]]])
    for labels in ([[1, 0]], [[1, -1]]):
        loss = sum(roi_losses(logits, deltas, torch.tensor(labels), targets))
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (logits, deltas)))
