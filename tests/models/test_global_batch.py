"""Two holders of halves of a batch, as threads, compute what one holder of the whole does."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from jdnas.data.types import Batch
from jdnas.models.detector import Detector, build
from jdnas.models.global_batch import Share, as_part_of, part_of_sum, total
from jdnas.presets import preset, scale_backbone
from jdnas.spec import DetectorSpec


class Meeting:
    """Adds tensors of two threads up."""

    def __init__(self) -> None:
        self.barrier, self.tensors = threading.Barrier(2, timeout=60), [torch.zeros(()), torch.zeros(())]

    def share(self, rank: int, *, synchronized_norms: bool) -> Share:
        def add_up(tensor: Tensor) -> Tensor:
            self.tensors[rank] = tensor.detach()
            self.barrier.wait()
            result = self.tensors[0] + self.tensors[1]
            self.barrier.wait()
            return result

        return Share(rank, 2, add_up, synchronized_norms)


def in_two_threads(work: Callable[[int], Any], *, synchronized_norms: bool = True) -> list[Any]:
    meeting, results = Meeting(), [None, None]

    def run(rank: int) -> None:
        with as_part_of(meeting.share(rank, synchronized_norms=synchronized_norms)):
            results[rank] = work(rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert None not in results
    return results


def small_spec() -> DetectorSpec:
    spec = scale_backbone(preset("r18", 3), 0.25, 8)
    head = replace(spec.head, width=32, rpn_width=16, train_candidates=60, train_proposals=50, roi_samples=24, anchor_samples=64)
    return replace(spec, neck=16, head=head)


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(4, 6, 2, generator=generator) * 60
    valid = torch.arange(6) < torch.tensor([6, 1, 0, 2])[:, None]  # one image without any box: fewer samples than others
    boxes = torch.cat((corner, corner + 8 + torch.rand(4, 6, 2, generator=generator) * 40), -1) * valid[..., None]
    labels = torch.randint(1, 4, (4, 6), generator=generator) * valid
    return Batch(
        torch.randn(4, 3, 96, 96, generator=generator).double(),
        torch.full((4, 2), 96),
        torch.ones(4),
        boxes,
        labels,
        valid,
        torch.arange(4),
    )


def losses_and_gradients(detector: Detector, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    terms = detector.losses(batch.images, batch.sizes_hw, batch, torch.Generator().manual_seed(5)).terms
    sum(terms.values()).backward()  # type: ignore[union-attr]
    gradients = {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}
    return {name: term.detach() for name, term in terms.items()}, gradients, dict(detector.named_buffers())


def half(batch: Batch, rank: int) -> Batch:
    rows = slice(2 * rank, 2 * rank + 2)
    return Batch(*(getattr(batch, name)[rows] for name in Batch.__dataclass_fields__))


def test_halves_of_a_batch_give_the_losses_gradients_and_statistics_of_the_whole():
    spec, batch = small_spec(), make_batch()
    detectors = [build(spec).double().train() for _ in range(3)]  # many norms over few pixels: float32 would leave 0.5 % of rounding
    for detector in detectors[1:]:
        detector.load_state_dict(detectors[0].state_dict())
    whole_terms, whole_gradients, whole_buffers = losses_and_gradients(detectors[0], batch)
    found = in_two_threads(lambda rank: losses_and_gradients(detectors[1 + rank], half(batch, rank)))
    for name, value in whole_terms.items():
        torch.testing.assert_close(found[0][0][name] + found[1][0][name], value, atol=1e-5, rtol=1e-4)
    for name, gradient in whole_gradients.items():
        difference = found[0][1][name] + found[1][1][name] - gradient
        assert difference.norm() <= 1e-4 * gradient.norm() + 1e-6, name
    for name, buffer in whole_buffers.items():
        if not name.endswith("num_batches_tracked"):
            for part in found:
                torch.testing.assert_close(part[2][name], buffer, atol=1e-5, rtol=1e-4)


def test_norms_that_are_not_synchronized_see_their_half_only():
    spec, batch = small_spec(), make_batch()
    detectors = [build(spec).double().train() for _ in range(2)]
    detectors[1].load_state_dict(detectors[0].state_dict())
    found = in_two_threads(lambda rank: losses_and_gradients(detectors[rank], half(batch, rank)), synchronized_norms=False)
    means = [part[2]["backbone.stem.norm.running_mean"] for part in found]
    assert not torch.allclose(*means)


@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_sums_and_parts(kind):
    value = torch.tensor(6, dtype=kind)
    assert total(value) is value and part_of_sum(value) is value
    assert in_two_threads(lambda rank: (int(total(value + rank)), float(part_of_sum(value)))) == [(13, 3.0), (13, 3.0)]
