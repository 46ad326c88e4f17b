import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jdnas.models.nms import blockwise_topk, nms_keep, nms_keep_best, ranked, topk


def random_boxes(count, *, seed, canvas=60.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * canvas
    return torch.cat((corner, corner + 5 + torch.rand(count, 2, generator=generator) * 40), -1)


def chain(count):
    """Boxes of which each overlaps only its neighbours by more than a half: greedy suppression keeps every second."""
    left = torch.arange(count) * 3.0
    return torch.stack((left, torch.zeros(count), left + 10, torch.full((count,), 10.0)), -1)


def has_converged(boxes, valid, iou, *, groups=None, iterations=16):
    """Whether one more step of the fixed point changes nothing, so that it is greedy suppression."""
    last, before = (nms_keep(boxes, valid, iou, "fixed_point", groups=groups, iterations=n) for n in (iterations + 1, iterations))
    return bool((last == before).all())


@pytest.mark.parametrize("form", ["greedy", "fixed_point"])
def test_suppression_by_hand(form):
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [100, 0, 110, 10], [2, 0, 12, 10], [0, 0, 10, 10]])
    valid = torch.tensor([True, True, True, True, False])
    assert nms_keep(boxes, valid, 0.5, form).tolist() == [True, False, True, False, False]
    # Another group survives; an invalid box does not suppress.
    groups = torch.tensor([1, 2, 1, 1, 1])
    assert nms_keep(boxes, valid, 0.5, form, groups=groups).tolist() == [True, True, True, False, False]
    assert nms_keep(boxes, torch.tensor([False, True, True, True, True]), 0.5, form).tolist() == [False, True, True, False, False]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000), count=st.integers(1, 40), iou=st.sampled_from([0.3, 0.5, 0.7]),
    classes=st.integers(0, 3), whole_pixels=st.booleans(),
)  # fmt: skip
def test_both_forms_agree(seed, count, iou, classes, whole_pixels):
    boxes = torch.stack([random_boxes(count, seed=seed), random_boxes(count, seed=seed + 1, canvas=20)])
    if whole_pixels and iou != 0.3:  # 0.3 as float32 and as float64 decide differently on an exact tie
        boxes = boxes.round()
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(2, count, generator=generator) > 0.2
    groups = torch.randint(0, classes, (2, count), generator=generator) if classes else None
    greedy = nms_keep(boxes, valid, iou, "greedy", groups=groups)
    fixed = nms_keep(boxes, valid, iou, "fixed_point", groups=groups, iterations=count)
    assert torch.equal(greedy, fixed)
    assert has_converged(boxes, valid, iou, groups=groups, iterations=count)


def test_convergence_is_told_truly():
    boxes, valid = chain(30), torch.ones(30, dtype=torch.bool)
    greedy = nms_keep(boxes, valid, 0.5, "greedy")
    assert greedy.tolist() == [i % 2 == 0 for i in range(30)]
    assert not has_converged(boxes, valid, 0.5, iterations=8)
    assert not torch.equal(nms_keep(boxes, valid, 0.5, "fixed_point", iterations=8), greedy)
    assert has_converged(boxes, valid, 0.5, iterations=30)
    assert torch.equal(nms_keep(boxes, valid, 0.5, "fixed_point", iterations=30), greedy)


def test_a_full_set_of_proposals_agrees_with_the_default_iterations():
    boxes = torch.stack([random_boxes(1000, seed=level, canvas=300.0) for level in range(5)])[None]
    valid = torch.ones(1, 5, 1000, dtype=torch.bool)
    assert torch.equal(nms_keep(boxes, valid, 0.7, "fixed_point"), nms_keep(boxes, valid, 0.7, "greedy"))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000), rows=st.integers(1, 300), k=st.integers(1, 40), block=st.integers(1, 20),
    distinct=st.sampled_from([3, 10_000]),
)  # fmt: skip
def test_blockwise_topk_is_exact(seed, rows, k, block, distinct):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, distinct, (2, rows), generator=generator).float()
    k = min(k, rows)
    values, index = blockwise_topk(scores, k, block)
    assert torch.equal(values, scores.topk(k, dim=1).values)
    assert torch.equal(scores.gather(1, index), values)
    assert all(len(row.unique()) == k for row in index)


def test_topk_forms_agree_and_are_cut_to_what_there_is():
    scores = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
    direct, blockwise = topk(scores, 10, "direct"), topk(scores, 10, "blockwise")
    assert torch.equal(direct[1], blockwise[1])
    for select in (topk, ranked):
        assert select(scores, 9999, "blockwise")[0].shape == select(scores, 9999, "direct")[0].shape == (2, 500)
    masked = torch.full((1, 500), -torch.inf)
    assert topk(masked, 10, "blockwise")[1].max() < 500


def test_ranking_keeps_the_order_of_equal_scores():
    scores = torch.tensor([[0.5, 1.0, 0.5, 1.0] * 50])
    _, index = ranked(scores, 120, "direct")
    assert index[0].tolist() == [*range(1, 200, 2), *range(0, 40, 2)]


@pytest.mark.parametrize(("count", "tied"), [(1, False), (7, False), (40, True), (500, True)])
def test_the_best_survivors_do_not_need_the_tails(count, tied):
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(2, 3, 60, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + 10 + torch.rand(2, 3, 60, 2, generator=generator) * 40), -1)
    scores = torch.rand(2, 3, 60, generator=generator)
    scores = ((scores * 8).round() / 8 if tied else scores).sort(dim=2, descending=True).values
    scores[0, 1, 20:] = -torch.inf
    scores[1, 0, ::4] = -torch.inf  # also in between
    everything = nms_keep(boxes, scores > -torch.inf, 0.5, "greedy")
    found = nms_keep_best(boxes, scores, 0.5, count)
    for image in range(2):
        best, others = (scores[image].where(keep[image], -1.0).flatten().sort(descending=True, stable=True) for keep in (found, everything))
        real = int((others.values[:count] >= 0).sum())
        assert real > 0 and torch.equal(best.values[:real], others.values[:real])
        assert torch.equal(best.indices[:real], others.indices[:real])
