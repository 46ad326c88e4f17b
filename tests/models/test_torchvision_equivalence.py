import os
import random
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torchvision.models.detection.image_list import ImageList
from torchvision.transforms.functional import to_tensor

from jdnas.errors import CheckpointError
from jdnas.models.checkpoints import state_from_torchvision
from jdnas.models.detector import EXPORT, build
from jdnas.models.layers import freeze_norms
from tests.models.peers import canvas, in_order, peer, spec_of

CLASSES = 4
EVERYTHING = 1_000_000
CASES = [
    ("r18", (128, 160), [(128, 160), (120, 140)]),
    ("r18", (192, 160), [(170, 160)]),
    ("r18", (64, 96), [(64, 96), (50, 90)]),
    ("r50", (160, 128), [(160, 101)]),
    ("r50_v2", (128, 160), [(128, 131)]),
    ("mobilenet_v3_fpn", (160, 224), [(160, 224), (130, 190)]),
    ("mobilenet_v3_fpn", (352, 320), [(350, 301)]),  # 11 rows of the last map give 6 of the pooled one
]
BASES = ["r18", "r50", "r50_v2", "mobilenet_v3_fpn"]
# Where a map is a few pixels large, there are not so many anchors.
FEWEST = {"mobilenet_v3_fpn": (10, 20)}


@pytest.fixture(scope="module", params=BASES)
def pair(request):
    model = peer(request.param, CLASSES, rpn_post_nms_top_n_test=300)
    spec = spec_of(request.param, CLASSES, proposals=300)
    detector = build(spec).eval()
    detector.load_state_dict(in_order(model, spec))
    return request.param, model, detector


def torchvision_detections(model, images, sizes_hw):
    features = model.backbone(images)
    proposals, _ = model.rpn(ImageList(images, sizes_hw), features)
    model.roi_heads.box_roi_pool.scales = None  # it keeps the scales that it inferred from the first batch
    return proposals, model.roi_heads(features, proposals, sizes_hw)[0]


@torch.no_grad()
def test_detections_equal_torchvision(pair):
    base, model, detector = pair
    fixed = build(detector.spec, forms=EXPORT).eval()
    fixed.load_state_dict(detector.state_dict())
    for seed, (case, size_hw, sizes_hw) in enumerate(CASES):
        if case != base:
            continue
        images = canvas(size_hw, sizes_hw, seed=seed)
        _, expected = torchvision_detections(model, images, sizes_hw)
        for forms in (detector, fixed):
            found = forms(images, torch.tensor(sizes_hw))
            for row, result in enumerate(expected):
                count = len(result["scores"])
                assert count > FEWEST.get(base, (20, 100))[0]
                assert found.count[row] == count
                torch.testing.assert_close(found.scores[row, :count], result["scores"], atol=1e-4, rtol=0)
                torch.testing.assert_close(found.boxes_xyxy[row, :count], result["boxes"], atol=1e-2, rtol=0)
                assert torch.equal(found.labels[row, :count], result["labels"])
                assert not found.scores[row, count:].any() and not found.boxes_xyxy[row, count:].any()


@torch.no_grad()
def test_proposals_equal_torchvision(pair):
    base, model, detector = pair
    size_hw, sizes_hw = (128, 192), [(128, 180), (110, 192)]
    images = canvas(size_hw, sizes_hw, seed=9)
    expected, _ = torchvision_detections(model, images, sizes_hw)
    found = detector.propose(detector.features(images), torch.tensor(sizes_hw))
    for row, boxes in enumerate(expected):
        assert FEWEST.get(base, (20, 100))[1] < len(boxes) == found.valid[row].sum()
        torch.testing.assert_close(found.boxes_xyxy[row, : len(boxes)], boxes, atol=1e-2, rtol=0)
        assert not found.boxes_xyxy[row, len(boxes) :].any()


def targets_for(sizes_hw, counts, *, seed):
    generator = torch.Generator().manual_seed(seed)
    most = max(counts)
    boxes = torch.zeros(len(counts), most, 4)
    for row, ((height, width), count) in enumerate(zip(sizes_hw, counts, strict=True)):
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.7
        side = 8 + torch.rand(count, 2, generator=generator) * 60
        boxes[row, :count] = torch.minimum(torch.cat((corner, corner + side), 1), torch.tensor([width, height] * 2).float())
    labels = torch.randint(1, CLASSES + 1, (len(counts), most), generator=generator)
    valid = torch.arange(most) < torch.tensor(counts)[:, None]
    return SimpleNamespace(boxes_xyxy=boxes, labels=labels * valid, valid=valid)


@torch.no_grad()
def test_any_image_of_any_size_is_detected_as_by_torchvision():
    """Random images, and real ones where the environment names a folder of them in JDNAS_TEST_IMAGES."""
    model, spec = peer("r18", CLASSES, rpn_post_nms_top_n_test=100), spec_of("r18", CLASSES, proposals=100)
    detector = build(spec).eval()
    detector.load_state_dict(in_order(model, spec))
    rng = random.Random(0)
    # torchvision infers a map's stride from the image's size, wrongly where padding makes it larger by half.
    images = [torch.randn(3, rng.randint(80, 200), rng.randint(80, 200), generator=torch.Generator().manual_seed(i)) for i in range(20)]
    folder = os.environ.get("JDNAS_TEST_IMAGES")
    files = sorted(Path(folder).rglob("*.jp*g"))[:40] if folder else []
    images += [(to_tensor(Image.open(file).convert("RGB").resize((rng.randint(100, 400), 300))) - 0.45) / 0.22 for file in files]
    for image in images:
        height, width = image.shape[1:]
        padded = torch.nn.functional.pad(image, (0, -width % 32, 0, -height % 32))[None]
        _, (expected,) = torchvision_detections(model, padded, [(height, width)])
        found = detector(padded, torch.tensor([[height, width]]))
        count = int(found.count)
        assert count == len(expected["scores"]) > 0
        torch.testing.assert_close(found.scores[0, :count], expected["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(found.boxes_xyxy[0, :count], expected["boxes"], atol=1e-2, rtol=0)
        assert torch.equal(found.labels[0, :count], expected["labels"])


@pytest.mark.parametrize("base", ["r50_v2", "mobilenet_v3_fpn"])
def test_losses_of_other_heads_equal_torchvision(base):
    _compare_losses(base, (3, 2))


@pytest.mark.parametrize("counts", [(5, 2), (0, 7), (1, 1)])
def test_losses_equal_torchvision_when_every_box_is_sampled(counts):
    _compare_losses("r18", counts)


def _compare_losses(base, counts):
    sampled = {"rpn_batch_size_per_image": EVERYTHING, "box_batch_size_per_image": EVERYTHING}
    kept = {"rpn_pre_nms_top_n_train": 300, "rpn_post_nms_top_n_train": 200}
    model = peer(base, CLASSES, seed=3, **sampled, **kept)
    spec = spec_of(base, CLASSES, anchor_samples=EVERYTHING, roi_samples=EVERYTHING, train_candidates=300, train_proposals=200)
    detector = build(spec).train()
    detector.load_state_dict(in_order(model, spec))
    freeze_norms(detector)

    sizes_hw = [(128, 150), (120, 160)]
    images = canvas((128, 160), sizes_hw, seed=4)
    targets = targets_for(sizes_hw, counts, seed=5)
    per_image = [
        {"boxes": boxes[:count], "labels": labels[:count]}
        for boxes, labels, count in zip(targets.boxes_xyxy, targets.labels, counts, strict=True)
    ]
    features = model.backbone(images)
    model.rpn.train()
    model.roi_heads.train()
    freeze_norms(model)
    proposals, expected = model.rpn(ImageList(images, sizes_hw), features, per_image)
    expected |= model.roi_heads(features, proposals, sizes_hw, per_image)[1]

    found = detector.losses(images, torch.tensor(sizes_hw), targets, torch.Generator().manual_seed(0))
    names = {"objectness": "loss_objectness", "rpn_box": "loss_rpn_box_reg", "classifier": "loss_classifier", "box": "loss_box_reg"}
    for ours, theirs in names.items():
        assert expected[theirs] > 0
        torch.testing.assert_close(found.terms[ours], expected[theirs], atol=1e-4, rtol=1e-4)
    gradient = torch.autograd.grad(sum(found.terms.values()), next(detector.fpn.parameters()))[0]
    theirs = torch.autograd.grad(sum(expected.values()), next(model.backbone.fpn.parameters()))[0]
    torch.testing.assert_close(gradient, theirs, atol=1e-4, rtol=1e-3)


def test_older_torchvision_layouts_are_read():
    model, spec = peer("r18", 2), spec_of("r18", 2)
    state = model.state_dict()
    old = {re.sub(r"(blocks\.\d|head\.conv)(\.0)+\.", r"\1.", name): tensor for name, tensor in state.items()}
    old = {name: tensor for name, tensor in old.items() if "num_batches_tracked" not in name}
    assert {"backbone.fpn.inner_blocks.3.bias", "rpn.head.conv.weight"} < old.keys()
    ours, reference = state_from_torchvision(old, spec), state_from_torchvision(state, spec)
    assert ours.keys() == reference.keys()
    assert all(torch.equal(ours[name], reference[name]) for name in ours)


def test_what_does_not_fit_is_listed():
    state, spec = peer("r18", 2).state_dict(), spec_of("r18", 2)
    with pytest.raises(CheckpointError, match="roi_heads.mask_head.x"):
        state_from_torchvision({**state, "roi_heads.mask_head.x": torch.zeros(1)}, spec)
    with pytest.raises(CheckpointError, match="missing box_head.fc6.bias"):
        state_from_torchvision({name: t for name, t in state.items() if name != "roi_heads.box_head.fc6.bias"}, spec)
    with pytest.raises(CheckpointError, match=r"box_head.class_logits.weight \(3, 1024\) instead of \(8, 1024\)"):
        state_from_torchvision(state, replace(spec, num_classes=7))
