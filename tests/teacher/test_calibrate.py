import pytest
import torch

from jdnas.models.bound import materialize
from jdnas.models.detector import Detector, build
from jdnas.models.layers import Norm
from jdnas.spec import DetectorSpec
from jdnas.teacher.calibrate import chunks, recalibrate

RUNNING = ("running_mean", "running_var")


def images(count: int = 12) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 + 1


def fresh(spec: DetectorSpec) -> Detector:
    torch.manual_seed(0)
    return materialize(spec, build(spec).state_dict())


@pytest.mark.parametrize(("count", "sizes"), [(3, [3]), (4, [4]), (7, [7]), (8, [4, 4]), (9, [4, 5]), (12, [4, 4, 4]), (15, [4, 4, 7])])
@pytest.mark.parametrize("split", [1, 2, 5])
def test_chunks_do_not_depend_on_how_batches_were_split(count: int, sizes: list[int], split: int) -> None:
    everything = torch.arange(count)
    found = list(chunks(everything.split(split), 4))
    assert [len(chunk) for chunk in found] == sizes
    assert torch.equal(torch.cat(found), everything)


def test_only_running_statistics_change(small: DetectorSpec) -> None:
    detector = fresh(small)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    momenta = [module.momentum for module in detector.modules() if isinstance(module, Norm)]
    recalibrate(detector, [images()])
    after = detector.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.endswith(RUNNING)}
    assert [module.momentum for module in detector.modules() if isinstance(module, Norm)] == momenta
    assert not any(module.training for module in detector.modules())
    assert not any(module._forward_hooks for module in detector.modules())


@pytest.mark.parametrize("split", [1, 3, 5, 12])
def test_the_split_into_batches_makes_no_difference(small: DetectorSpec, split: int) -> None:
    whole, parts = fresh(small), fresh(small)
    recalibrate(whole, [images()], chunk=4)
    recalibrate(parts, images().split(split), chunk=4)
    assert all(torch.equal(tensor, parts.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_statistics_are_those_of_all_images(small: DetectorSpec) -> None:
    # The stem sees the images themselves, so its statistics do not depend on the chunks either: 12 images in chunks of 5 and 7.
    detector = recalibrate(fresh(small), [images()], chunk=5)
    stem = detector.backbone.stem
    outputs = stem.conv(images()).double()
    assert stem.norm.running_mean is not None and stem.norm.running_var is not None
    assert torch.allclose(stem.norm.running_mean.double(), outputs.mean((0, 2, 3)), rtol=1e-5)
    assert torch.allclose(stem.norm.running_var.double(), outputs.var((0, 2, 3), unbiased=True), rtol=1e-5)


def test_one_chunk_gives_the_statistics_of_that_forward_pass_at_every_depth(small: DetectorSpec) -> None:
    detector, reference = recalibrate(fresh(small), [images()]), fresh(small)
    for module in reference.modules():
        if isinstance(module, Norm):
            module.train()
            module.momentum = 1.0
    with torch.no_grad():
        reference.features(images())
    expected = reference.state_dict()
    for name, tensor in detector.state_dict().items():
        if name.endswith(RUNNING):
            assert torch.allclose(tensor, expected[name], rtol=1e-4, atol=1e-6), name


def test_a_failure_leaves_the_detector_as_it_is_built(small: DetectorSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = fresh(small)

    def broken(batch: torch.Tensor) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(detector, "features", broken)
    for feed, error in (([images(2)], "out of memory"), ([], "at least one image")):
        with pytest.raises((RuntimeError, ValueError), match=error):
            recalibrate(detector, feed)
        assert not any(module.training or module._forward_hooks for module in detector.modules())
