import torch
from torch.nn import functional as F

from jdnas.distill.adapters import FEATURE, IMITATION, fitted_adapter, identity_adapter, make_adapters, without_adapters
from jdnas.distill.settings import DistillSettings


def test_identity_adapter_copies_the_common_channels() -> None:
    assert identity_adapter(2, 3)[:, :, 0, 0].tolist() == [[1, 0], [0, 1], [0, 0]]
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(F.conv2d(x, identity_adapter(2, 2, kernel=3), padding=1), x)


def test_only_the_adapters_that_terms_need_are_made() -> None:
    assert set(make_adapters(4, 6, DistillSettings())) == {FEATURE}
    assert set(make_adapters(4, 6, DistillSettings().for_method("logit"))) == set()
    imitation = make_adapters(4, 6, DistillSettings().for_method("fgfi"))
    assert {name: tuple(t.shape) for name, t in imitation.items()} == {IMITATION: (6, 4, 3, 3)}
    assert without_adapters({"x": torch.ones(1), **imitation}) == {"x": torch.ones(1)}


def test_fitted_adapter_finds_a_teacher_that_is_a_mix_of_the_students_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(6, 3, 7, 7, generator=generator)
    mix = torch.randn(5, 3, 1, 1, generator=generator)
    teacher, valid = F.conv2d(student, mix) + 7.0, torch.tensor([True] * 5 + [False])
    teacher[5] = 1e6
    assert torch.allclose(fitted_adapter(student, teacher, valid), mix, atol=5e-3)


def test_fitted_adapter_of_dead_channels_is_finite() -> None:
    assert torch.isfinite(fitted_adapter(torch.zeros(2, 3, 7, 7), torch.randn(2, 4, 7, 7), torch.tensor([True, True]))).all()
