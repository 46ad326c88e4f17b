import json
from dataclasses import replace

import numpy as np
import pytest

from jdnas.errors import TargetError
from latency.blocks import Block
from latency.conv_library import ConvLibrary, ConvRow
from latency.prior import find_prior, model_name, polynomial, read_prior, terms_of
from latency.prior_fit import fit_prior
from latency.targets import load_target

V100 = load_target("v100-trt")
SIDES, WIDTHS = (7, 14, 28, 56, 112), (8, 16, 32, 64, 128)


def true_ms(family, sizes, add):
    """A device of simple habits: a launch, multiply-adds and memory, and one tactic that is half as fast below 20x20."""
    _, _, macs, inputs, outputs, added, weights = terms_of(family, [(sizes, add)])[0]
    slow = 2.0 if sizes[2] * sizes[3] < 400 else 1.0
    return 0.005 + slow * (2e-10 * macs + 1e-9 * (inputs + outputs + added + weights))


def library(families=("conv 3x3/1", "conv 1x1/1", "depthwise 3x3/1")):
    rows = []
    for family in families:
        for reads in WIDTHS:
            for writes in (reads,) if family.startswith("depthwise") else WIDTHS:
                for side in SIDES:
                    for add in (False, True):
                        sizes = (reads, writes, side, side, 1)
                        rows.append(ConvRow(Block(family, sizes), add, true_ms(family, sizes, add)))
    return ConvLibrary(tuple(sorted(rows)), 1, 3, 7, "rows.out", "0" * 64)


@pytest.fixture(scope="module")
def fitted():
    return {keep: fit_prior(library(), V100, source="a paper", licence="MIT", keep_rows=keep) for keep in (False, True)}


def test_terms_by_hand():
    # 3x3, 8 -> 16 channels, output 5x7, stride 2, with an addition: 35 positions, dot products of 72.
    (terms,) = terms_of("conv 3x3/2", [((8, 16, 5, 7, 1), True)])
    assert terms.tolist() == [1, 72, 35 * 16 * 72, 35 * 4 * 8, 35 * 16, 35 * 16, 72 * 16]
    (terms,) = terms_of("depthwise 3x3/1", [((8, 8, 5, 7, 1), False)])
    assert terms.tolist() == [1, 9, 35 * 8 * 9, 35 * 8, 35 * 8, 0, 72]


def test_polynomial_by_hand_and_held_in_its_box():
    box = ((0.0, 4.0), (0.0, 2.0))
    # Scaled (3, 0.5) is (0.5, -0.5): products of up to three of (1, 0.5, -0.5).
    (products,) = polynomial(np.array([[3.0, 0.5]]), box)
    assert products.tolist() == [1, 0.5, -0.5, 0.25, -0.25, 0.25, 0.125, -0.125, 0.125, -0.125]
    assert np.array_equal(polynomial(np.array([[9.0, -3.0]]), box), polynomial(np.array([[4.0, 0.0]]), box))


def test_the_formula_finds_the_device(fitted):
    prior = fitted[False]
    assert prior.error.rows == pytest.approx(0.2 * len(library().rows), abs=3)
    assert prior.error.mape < 0.12
    assert prior.lineage["source"] == "a paper" and prior.lineage["licence"] == "MIT"
    assert (prior.lineage["rows_failed"], prior.lineage["rows_of_other_batches"]) == (3, 7)
    assert not prior.rows


def test_rows_that_are_kept_make_it_more_exact(fitted):
    assert fitted[True].error.mape < 0.7 * fitted[False].error.mape
    for row in library().rows[::17]:
        (found,) = fitted[True].latency_ms(row.block.family, [(row.block.sizes, row.add)])
        assert found == pytest.approx(row.latency_ms, rel=0.02)


def test_sizes_that_are_not_square_lie_between_the_square_ones(fitted):
    for keep in (False, True):
        low, between, high = (
            fitted[keep].latency_ms("conv 3x3/1", [((64, 64, *size, 1), False)])[0] for size in ((56, 56), (56, 112), (112, 112))
        )
        assert low < between < high
        assert between == pytest.approx(true_ms("conv 3x3/1", (64, 64, 56, 112, 1), False), rel=0.15)


def test_only_the_sum_extrapolates(fitted):
    # Far outside, cost grows with the multiply-adds and not with a power of a polynomial.
    first, second = (fitted[False].latency_ms("conv 3x3/1", [((512, 512, side, side, 1), False)])[0] for side in (400, 800))
    assert second / first == pytest.approx(4, rel=0.05)


def test_fully_connected_layers_are_1x1_convolutions(fitted):
    prior = fitted[False]
    linear = prior.latency_ms("linear", [((64, 128, 1, 1, 784), False)])
    assert linear == pytest.approx(prior.latency_ms("conv 1x1/1", [((64, 128, 28, 28, 1), False)]))


def test_images_have_a_model_of_their_own():
    assert model_name("conv 7x7/2", (3, 64, 9, 9, 1)) == "conv 7x7/2 of images"
    assert model_name("depthwise 3x3/1", (3, 3, 9, 9, 1)) == "depthwise 3x3/1"
    assert model_name("linear", (64, 64, 1, 1, 9)) == "conv 1x1/1"


def test_unknown_kinds_say_what_there_is(fitted):
    with pytest.raises(TargetError, match=r"third-party prior of 'v100-trt' has no convolutions of kind 'conv 5x5/1' \(it has: conv 1x1/1"):
        fitted[False].latency_ms("conv 5x5/1", [((8, 8, 8, 8, 1), False)])


def test_too_few_rows():
    few = library()
    with pytest.raises(TargetError, match="no kind of convolution with 50 rows or more"):
        fit_prior(replace(few, rows=few.rows[:40]), V100, source="", licence="", keep_rows=False)


@pytest.mark.parametrize("keep", [False, True])
def test_round_trip(fitted, keep, tmp_path):
    fitted[keep].save(tmp_path / "prior.json")
    again = read_prior(tmp_path / "prior.json")
    assert (again.lineage, again.error, again.rows) == (fitted[keep].lineage, fitted[keep].error, fitted[keep].rows)
    calls = [((40, 40, 30, 20, 1), True)]
    assert again.latency_ms("conv 3x3/1", calls) == pytest.approx(fitted[keep].latency_ms("conv 3x3/1", calls), rel=1e-9)


def _first_model(data):
    return next(iter(data["models"].values()))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(version=9), "has version 9; this jdnas reads version 1"),
        (lambda d: d.pop("lineage"), "malformed: 'lineage'"),
        (lambda d: _first_model(d)["terms"].__setitem__(0, float("nan")), "does not hold finite coefficients"),
        (lambda d: _first_model(d)["terms"].__setitem__(0, -1.0), "non-negative terms"),
        (lambda d: _first_model(d)["residual"].pop(), "35 products"),
        (lambda d: d["rows"].update({"conv 1x1/1": [[8, 8, 8, 8, 1, 0, float("nan")]]}), "a row of 'conv 1x1/1' is .*7 positive numbers"),
        (lambda d: d["rows"].update({"conv 1x1/1": [[8, 8, 8, 1, 0, 0.5]]}), "instead of 7 positive numbers"),
    ],
)
def test_malformed_files(fitted, tmp_path, edit, message):
    path = tmp_path / "prior.json"
    data = fitted[True].to_dict()
    data = json.loads(json.dumps(data))
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(TargetError, match=message) as caught:
        read_prior(path)
    assert "\n" not in str(caught.value)


def test_truncated_files(fitted, tmp_path):
    path = tmp_path / "prior.json"
    fitted[False].save(path)
    path.write_text(path.read_text()[:-30])
    with pytest.raises(TargetError, match="truncated or not JSON"):
        read_prior(path)


def test_a_prior_of_another_target_is_refused(fitted):
    replace(fitted[False], precision="int8").save(V100.prior_path)
    with pytest.raises(TargetError, match="is of v100-trt int8 1, not of v100-trt fp16 1"):
        find_prior(V100)


def test_an_imported_prior_comes_before_the_shipped_one(fitted):
    assert find_prior(V100)[1] == V100.shipped_prior_path
    fitted[True].save(V100.prior_path)
    prior, path = find_prior(V100)
    assert path == V100.prior_path and prior.rows


def test_the_shipped_prior_holds_coefficients_and_lineage_and_no_rows():
    prior = read_prior(V100.shipped_prior_path)
    assert V100.shipped_prior_path.stat().st_size < 20_000
    assert not prior.rows
    assert prior.lineage["licence"] == "Apache-2.0"
    assert "alibaba" in prior.lineage["source"]
    assert prior.lineage["rows_failed"] == 7
    assert 0.05 < prior.error.mape < 0.2 and prior.error.rows > 5000
    assert {"conv 1x1/1", "conv 3x3/1", "conv 3x3/2", "conv 7x7/2 of images", "depthwise 3x3/1"} <= prior.models.keys()
