"""The cascade against arithmetic by hand and against a plain loop over images on torchvision's parts."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import MultiScaleRoIAlign, batched_nms, box_iou, clip_boxes_to_image

from jdnas.models.assign import BACKGROUND, IGNORED
from jdnas.models.cascade import mean_scores, refined, relabelled
from jdnas.models.detector import EXPORT, build
from jdnas.models.rpn import Proposals
from jdnas.spec import DetectorSpec, Head, Stage

WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
IOUS, SHARES = (0.5, 0.6, 0.7), (1.0, 0.5, 0.25)
HEAD = Head(
    kind="cascade", width=24, rpn_width=16, anchor_sizes=(16, 32, 64, 128, 256), candidates=100, proposals=60, train_candidates=100,
    train_proposals=60, anchor_samples=1000, roi_samples=1000, detections=30, score_threshold=0.2,
)  # fmt: skip
SPEC = DetectorSpec("resnet_basic", 8, tuple(Stage(w, (w,)) for w in (8, 12, 16, 20)), 3, neck=16, head=HEAD)
SIZES = [(128, 150), (100, 160)]
IMAGES = torch.randn(2, 3, 128, 160, generator=torch.Generator().manual_seed(0))


def lively(mean="probabilities", forms=None):
    torch.manual_seed(2)
    spec = replace(SPEC, head=replace(HEAD, cascade_mean=mean))
    detector = build(spec, forms=forms) if forms else build(spec)
    with torch.no_grad():
        detector.rpn.objectness.weight.mul_(100)
        detector.rpn.deltas.weight.mul_(10)
        for head in (detector.box_head, *detector.cascade):
            head.class_logits.weight.mul_(20)
            head.box_deltas.weight.mul_(4)
    return detector.eval()


def test_a_head_moves_boxes_by_its_own_delta_weights():
    box = Proposals(torch.tensor([[[10.0, 10, 30, 30], [0, 0, 0, 0]]]), torch.tensor([[True, False]]))
    deltas = torch.tensor([2.0, 0, 0, 0]).expand(1, 2, 1, 4)
    sizes = torch.tensor([[50, 33]])
    assert refined(box, deltas, sizes, 0).boxes_xyxy.tolist() == [[[14, 10, 33, 30], [0, 0, 0, 0]]]  # 2 / 10 of 20, clipped at 33
    assert refined(box, deltas, sizes, 1).boxes_xyxy[0, 0].tolist() == [12, 10, 32, 30]  # 2 / 20 of 20


def test_what_is_an_object_depends_on_the_head():
    truth, labels, valid = torch.tensor([[[10.0, 10, 30, 30]]]), torch.tensor([[2]]), torch.ones(1, 1, dtype=torch.bool)
    boxes = torch.tensor([[[14.0, 10, 34, 30], [10, 10, 30, 30], [40, 40, 50, 50], [10, 10, 10, 30], [0, 0, 0, 0]]])
    some = Proposals(boxes, torch.tensor([[True, True, True, True, False]]))
    found = [relabelled(some, truth, labels, valid, stage) for stage in range(3)]
    # The first overlaps by 16 x 20 of 24 x 20 pixels, 2/3; the fourth is empty, the fifth padding.
    assert [sample.labels.tolist() for sample in found] == [[[first, 2, BACKGROUND, IGNORED, IGNORED]] for first in (2, 2, BACKGROUND)]
    for sample, (shift, *_) in zip(found, WEIGHTS, strict=True):
        torch.testing.assert_close(sample.targets[0, 0], torch.tensor([-4 / 20 * shift, 0, 0, 0]))


def test_scores_are_the_mean_of_probabilities_or_of_logits():
    logits = [torch.tensor([[[0.0, 4.0]]]), torch.tensor([[[2.0, 0.0]]])]
    one, two = (1 / (1 + torch.exp(torch.tensor(x))) for x in (-4.0, 2.0))
    torch.testing.assert_close(mean_scores(logits, HEAD)[0, 0, 1], (one + two) / 2)
    torch.testing.assert_close(mean_scores(logits, replace(HEAD, cascade_mean="logits"))[0, 0, 1], 1 / (1 + torch.exp(torch.tensor(-1.0))))


def pooled(pyramid, row, boxes):
    pool = MultiScaleRoIAlign([str(i) for i in range(4)], 7, 2)
    return pool({str(i): level[row : row + 1] for i, level in enumerate(pyramid[:4])}, [boxes], [(128, 160)])[None]


def slow_detections(detector, mean):
    pyramid = detector.features(IMAGES)
    proposals = detector.propose(pyramid, torch.tensor(SIZES))
    heads = (detector.box_head, *detector.cascade)
    for row, size in enumerate(SIZES):
        boxes, logits = proposals.boxes_xyxy[row][proposals.valid[row]], []
        for head, weights in zip(heads, WEIGHTS, strict=True):
            some, deltas = head(pooled(pyramid, row, boxes))
            logits.append(some[0])
            boxes = clip_boxes_to_image(BoxCoder(weights).decode_single(deltas[0, :, 0], boxes), size)
        scores = torch.stack(logits).mean(0).softmax(-1) if mean == "logits" else torch.stack(logits).softmax(-1).mean(0)
        where, label = (scores[:, 1:] > HEAD.score_threshold).nonzero().T
        scores = scores[where, label + 1]
        keep = batched_nms(boxes[where], scores, label, 0.5)[: HEAD.detections]
        yield boxes[where][keep], scores[keep], label[keep] + 1


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
@torch.no_grad()
def test_detections_equal_a_loop_over_images(mean):
    detector, fixed = lively(mean), lively(mean, EXPORT)
    for form in (detector, fixed):
        found = form(IMAGES, torch.tensor(SIZES))
        for row, (boxes, scores, labels) in enumerate(slow_detections(detector, mean)):
            count = int(found.count[row])
            assert count == len(scores) > 5
            torch.testing.assert_close(found.boxes_xyxy[row, :count], boxes, atol=1e-2, rtol=0)
            torch.testing.assert_close(found.scores[row, :count], scores, atol=1e-4, rtol=0)
            assert torch.equal(found.labels[row, :count], labels)


def truth():
    corner = torch.rand(2, 4, 2, generator=torch.Generator().manual_seed(3)) * 60
    labels = torch.randint(1, 4, (2, 4), generator=torch.Generator().manual_seed(4))
    boxes = torch.cat((corner, corner + 30), -1)
    return SimpleNamespace(boxes_xyxy=boxes, labels=labels, valid=torch.tensor([[True] * 4, [True] * 2 + [False] * 2]))


def slow_losses(detector, targets):
    """Sum the losses of all heads over both images, with every proposal sampled."""
    pyramid = detector.features(IMAGES)
    proposals = detector.propose(pyramid, torch.tensor(SIZES))
    outputs = [[] for _ in IOUS]
    for row, size in enumerate(SIZES):
        real, labels = targets.boxes_xyxy[row][targets.valid[row]], targets.labels[row][targets.valid[row]]
        boxes = torch.cat((proposals.boxes_xyxy[row][proposals.valid[row]], real))
        for stage, (head, weights, iou) in enumerate(zip((detector.box_head, *detector.cascade), WEIGHTS, IOUS, strict=True)):
            coder = BoxCoder(weights)
            index = Matcher(iou, iou)(box_iou(real, boxes))
            label = torch.where(index >= 0, labels[index.clamp(min=0)], 0)
            goal = coder.encode_single(real[index.clamp(min=0)], boxes)
            logits, deltas = head(pooled(pyramid, row, boxes))
            outputs[stage].append((logits[0], deltas[0, :, 0], label, goal))
            boxes = clip_boxes_to_image(coder.decode_single(deltas[0, :, 0].detach(), boxes), size)
    classifier, box, positives = 0.0, 0.0, []
    for share, rows in zip(SHARES, outputs, strict=True):
        logits, deltas, label, goal = (torch.cat(values) for values in zip(*rows, strict=True))
        classifier += share * F.cross_entropy(logits, label)
        on = label > 0
        box += share * F.smooth_l1_loss(deltas[on], goal[on], beta=1 / 9, reduction="sum") / len(label)
        positives.append(int(on.sum()))
    return classifier, box, positives


def test_losses_equal_a_loop_over_images():
    detector, targets = lively(), truth()
    found = detector.losses(IMAGES, torch.tensor(SIZES), targets, torch.Generator().manual_seed(0))
    classifier, box, positives = slow_losses(detector, targets)
    assert positives[0] >= 6 and len(set(positives)) > 1
    torch.testing.assert_close(found.terms["classifier"], classifier, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.terms["box"], box, atol=1e-4, rtol=1e-4)
    assert found.box_deltas.shape[2:] == (1, 4) and found.class_logits.shape[2] == 4


def test_every_head_of_the_cascade_learns():
    detector = lively().train()
    output = detector.losses(IMAGES, torch.tensor(SIZES), truth(), torch.Generator().manual_seed(0))
    sum(output.terms.values()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
