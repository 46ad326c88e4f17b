import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jdnas.models import weighted_rows
from jdnas.models.weighted_rows import summed_bags, summed_products


def problem(pixels: int, channels: int, sums: int, reads: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(pixels, channels, generator=generator)
    return rows, torch.randint(pixels, (sums, reads), generator=generator), torch.randn(sums, reads, generator=generator)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 12), st.integers(1, 16), st.integers(0, 9))
def test_sums_and_gradients_equal_the_definition(pixels, channels, sums, reads, seed):
    rows, index, weight = problem(pixels, channels, sums, reads, seed)
    wanted = torch.randn(sums, channels, generator=torch.Generator().manual_seed(seed))
    forms = []
    for form in (lambda r: (r[index] * weight[..., None]).sum(1), lambda r: summed_bags(r, index, weight)):
        leaf = rows.clone().requires_grad_()
        result = form(leaf)
        forms.append((result.detach(), torch.autograd.grad((result * wanted).sum(), leaf)[0]))
    for ours, reference in zip(forms[1], forms[0], strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


def test_gradients_do_not_depend_on_the_number_of_threads():
    rows, index, weight = problem(50, 8, 900, 16, 0)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            leaf = rows.clone().requires_grad_()
            found.append(torch.autograd.grad(summed_bags(leaf, index, weight).square().sum(), leaf)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


@pytest.mark.parametrize("at_once", [1, 16 * 8 * 7])
def test_products_in_parts_give_the_same(monkeypatch, at_once):
    rows, index, weight = problem(50, 8, 20, 16, 1)
    whole = summed_products(rows, index, weight)
    monkeypatch.setattr(weighted_rows, "_GATHERED_AT_ONCE", at_once)
    torch.testing.assert_close(summed_products(rows, index, weight), whole)
