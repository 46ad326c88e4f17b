from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from jdnas.models.axes import state_axes
from jdnas.models.detector import EAGER, EXPORT, Forms, build, call_with
from jdnas.spec import DetectorSpec, Head, Stage
from tests.models.specs import plain_spec

HEAD = Head(
    width=32, rpn_width=16, candidates=150, proposals=80, train_candidates=200, train_proposals=100,
    anchor_samples=64, roi_samples=32, detections=20,
)  # fmt: skip
SPEC = DetectorSpec("resnet_basic", 8, tuple(Stage(w, (w,)) for w in (8, 12, 16, 20)), 3, neck=16, head=HEAD)
SIZES = torch.tensor([[128, 150], [100, 160]])
IMAGES = torch.randn(2, 3, 128, 160, generator=torch.Generator().manual_seed(0))


def lively(spec=SPEC, forms=EAGER, **settings):
    """A detector whose random weights tell places and classes apart."""
    torch.manual_seed(1)
    detector = build(replace(spec, head=replace(spec.head, **settings)), forms=forms)
    with torch.no_grad():
        detector.rpn.objectness.weight.mul_(100)
        detector.rpn.deltas.weight.mul_(10)
        detector.box_head.class_logits.weight.mul_(20)
    return detector.eval()


def targets(count=4, images=2):
    corner = torch.rand(images, count, 2, generator=torch.Generator().manual_seed(3)) * 60
    boxes = torch.cat((corner, corner + 30), -1)
    labels = torch.randint(1, 4, (images, count), generator=torch.Generator().manual_seed(4))
    return SimpleNamespace(boxes_xyxy=boxes, labels=labels, valid=torch.ones(images, count, dtype=torch.bool))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def finds(detector, images=IMAGES, sizes=SIZES):
    with torch.no_grad():
        return detector(images, sizes)


def test_detections_are_sorted_clipped_and_padded():
    found = finds(lively(), IMAGES, SIZES)
    assert found.boxes_xyxy.shape == (2, 20, 4) and found.scores.shape == found.labels.shape == (2, 20)
    assert found.labels.dtype == found.count.dtype == torch.int64
    for row in range(2):
        count = found.count[row]
        assert count > 0
        assert (found.scores[row, :count].diff() <= 0).all() and found.scores[row, :count].min() > 0.05
        assert found.labels[row, :count].min() >= 1 and found.labels[row, :count].max() <= 3
        assert not found.scores[row, count:].any() and not found.labels[row, count:].any()
        assert (found.boxes_xyxy[row, :, 2] <= SIZES[row, 1]).all() and (found.boxes_xyxy[row, :, 3] <= SIZES[row, 0]).all()


@pytest.mark.parametrize("forms", [EAGER, EXPORT])
def test_no_detection_gives_zeros(forms):
    found = finds(lively(forms=forms, score_threshold=1.0))
    assert not found.count.any() and not found.boxes_xyxy.any() and not found.scores.any() and not found.labels.any()


@pytest.mark.parametrize("forms", [EAGER, EXPORT])
def test_more_detections_asked_for_than_the_canvas_can_hold(forms):
    found = finds(lively(forms=forms, detections=400, proposals=5), IMAGES[:, :, :64, :64], torch.tensor([[64, 64], [60, 50]]))
    assert found.scores.shape == (2, 400)
    assert (found.count <= 15).all() and found.count.any()


@pytest.mark.parametrize("forms", [EXPORT, Forms(nms="fixed_point"), Forms(roi="gather"), Forms(topk="blockwise")])
def test_all_forms_find_the_same(forms):
    expected, found = finds(lively()), finds(lively(forms=forms))
    assert torch.equal(expected.count, found.count) and torch.equal(expected.labels, found.labels)
    torch.testing.assert_close(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=0)


BLOCKS = {family: plain_spec(family, width=16, depth=1) for family in ("resnext_4d", "resnet_bottleneck", "mobilenet_v3", "mobilenet_v2")}
CONVS = replace(HEAD, kind="cascade", convs=(8, 8), fcs=1)
TWICE = replace(HEAD, strides=(32, 32, 64), anchor_sizes=(32,) * 3, anchor_scales=(1.0, 2.0, 4.0), rpn_convs=2, proposals=40)
OTHERS = {
    "deformable cascade of groups": replace(BLOCKS["resnext_4d"], deformable=(1, 2, 3), modulated=True, neck_norm=True, head=CONVS),
    "deformable, stride in 1x1": replace(
        BLOCKS["resnet_bottleneck"], stride_in_1x1=True, deformable=(2, 3), head=replace(HEAD, roi_aligned=True)
    ),
    "one stride twice": replace(BLOCKS["mobilenet_v3"], tail=16, head=TWICE),
    "mobile": replace(BLOCKS["mobilenet_v2"], head=HEAD),
}


def shaken(spec, forms=EAGER):
    """The same for any spec: norms whose statistics are those of the images, and offsets that move samples by pixels."""
    detector = lively(spec, score_threshold=0.02)
    torch.manual_seed(3)
    for name, tensor in detector.state_dict().items():
        if ".offset." in name:
            tensor.normal_(std=1.0 if name.endswith("bias") else 0.05)
    for norm in (module for module in detector.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        detector.train().features(IMAGES)
    other = build(detector.spec, forms=forms).eval()
    other.load_state_dict(detector.state_dict())
    return other


@pytest.mark.parametrize("name", OTHERS)
def test_both_forms_of_every_kind_find_the_same(name):
    expected, found = finds(shaken(OTHERS[name])), finds(shaken(OTHERS[name], EXPORT))
    assert expected.count.min() > 5
    assert torch.equal(expected.count, found.count) and torch.equal(expected.labels, found.labels)
    torch.testing.assert_close(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-2, rtol=0)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)


def test_an_image_is_detected_alike_alone_and_in_a_batch():
    detector = lively()
    both = finds(detector)
    for row in range(2):
        alone = finds(detector, IMAGES[row : row + 1], SIZES[row : row + 1])
        torch.testing.assert_close(alone.boxes_xyxy[0], both.boxes_xyxy[row], atol=1e-3, rtol=1e-5)
        assert torch.equal(alone.labels[0], both.labels[row])


def test_non_finite_images_do_not_stop_inference():
    images = IMAGES.clone()
    images[0, :, 40:60] = torch.nan
    for forms in (EAGER, EXPORT):
        found = finds(lively(forms=forms), images)
        assert found.boxes_xyxy.isfinite().all() and found.count[1] > 0


def test_losses_train_every_parameter_and_have_fixed_shapes():
    detector = lively().train()
    output = detector.losses(IMAGES, SIZES, targets(), generator())
    assert set(output.terms) == {"objectness", "rpn_box", "classifier", "box"}
    assert output.proposals.boxes_xyxy.shape == (2, 32, 4) and output.labels.shape == (2, 32)
    assert output.roi_features.shape == (2, 32, 16, 7, 7)
    assert output.class_logits.shape == (2, 32, 4) and output.box_deltas.shape == (2, 32, 4, 4)
    assert [features.shape[2] for features in output.pyramid] == [32, 16, 8, 4, 2]
    assert (output.labels > 0).sum() >= 8  # the ground truth itself is among the RoIs
    sum(output.terms.values()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_the_generator_decides_the_samples():
    detector = lively()
    losses = [detector.losses(IMAGES, SIZES, targets(), generator(seed)).terms["classifier"] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("padded", [True, False])
def test_images_without_objects_train_as_background(padded):
    nothing = targets(3 if padded else 0)
    nothing.valid[:] = False
    output = lively().train().losses(IMAGES, SIZES, nothing, generator())
    assert output.terms["box"] == output.terms["rpn_box"] == 0
    assert output.terms["classifier"] > 0 and output.terms["objectness"] > 0
    assert (output.labels <= 0).all()


def test_padding_of_the_ground_truth_changes_nothing():
    plain, padded = targets(), targets()
    padded.boxes_xyxy = torch.cat((padded.boxes_xyxy, torch.full((2, 3, 4), 7.0)), 1)
    padded.labels = torch.cat((padded.labels, torch.full((2, 3), 2)), 1)
    padded.valid = torch.cat((padded.valid, torch.zeros(2, 3, dtype=torch.bool)), 1)
    everything = {"anchor_samples": 100_000, "roi_samples": 100_000}
    terms = [lively(**everything).losses(IMAGES, SIZES, t, generator()).terms for t in (plain, padded)]
    for name in terms[0]:
        torch.testing.assert_close(terms[0][name], terms[1][name])


def test_boxes_stay_in_full_precision_under_autocast():
    detector = lively().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = detector.losses(IMAGES, SIZES, targets(), generator())
    assert output.proposals.boxes_xyxy.dtype == torch.float32
    assert all(term.dtype == torch.float32 and term.isfinite() for term in output.terms.values())
    sum(output.terms.values()).backward()


def test_deformable_convolutions_train_under_autocast():
    detector = shaken(replace(OTHERS["deformable cascade of groups"], num_classes=3)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = detector.losses(IMAGES, SIZES, targets(), generator())
    sum(output.terms.values()).backward()
    grads = [p.grad for name, p in detector.named_parameters() if ".offset." in name]
    assert grads and all(grad.isfinite().all() for grad in grads) and any(grad.any() for grad in grads)


def test_a_detector_on_meta_runs_with_the_tensors_of_another():
    donor = lively()
    hollow = build(SPEC, device="meta").eval()
    expected = finds(donor)
    with torch.no_grad():
        found = call_with(hollow, donor.state_dict(), "forward", IMAGES, SIZES)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    trained = dict(donor.named_parameters())
    state = {name: tensor.clone().requires_grad_(name in trained) for name, tensor in donor.state_dict().items()}
    output = call_with(hollow, state, "losses", IMAGES, SIZES, targets(), generator())
    sum(output.terms.values()).backward()
    assert state["backbone.stem.conv.weight"].grad.any()
    assert all(parameter.is_meta for parameter in hollow.parameters())


def test_parts_compose_to_the_whole():
    detector = lively()
    with torch.no_grad():
        pyramid = detector.features(IMAGES)
        proposals = detector.propose(pyramid, SIZES)
        logits, deltas = detector.box_head(detector.roi_features(pyramid, proposals.boxes_xyxy))
    assert proposals.boxes_xyxy.shape == (2, 80, 4) and proposals.valid.shape == (2, 80)
    assert logits.shape == (2, 80, 4) and deltas.shape == (2, 80, 4, 4)
    best = logits.softmax(-1)[..., 1:].where(proposals.valid[..., None], 0).amax((1, 2))
    torch.testing.assert_close(finds(detector).scores[:, 0], best, atol=1e-5, rtol=0)


def test_every_tensor_has_named_axes():
    detector = build(SPEC, device="meta")
    table = state_axes(detector)
    shapes = {name: tuple(None if axis is None else axis.size for axis in axes) for name, axes in table.items()}
    for name, tensor in detector.state_dict().items():
        assert all(want in (None, got) for want, got in zip(shapes[name], tensor.shape, strict=True)), name
