"""Fitting a prior to the rows of a convolution library."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from jdnas.errors import TargetError
from latency.blocks import Floats
from latency.conv_library import ConvLibrary, ConvRow
from latency.fits import nonnegative_fit
from latency.prior import ConvModel, FitError, Prior, model_name, near_rows, polynomial, terms_of, variables_of
from latency.targets import Target

_HELD_OUT = 0.2
_LEAST_ROWS = 50
_RIDGE = 0.1


def fit_prior(library: ConvLibrary, target: Target, *, source: str, licence: str, keep_rows: bool, seed: int = 0) -> Prior:
    """Fit a model to each family of the library; the errors are those of fits that did not see a fifth of the rows.

    With `keep_rows` the prior holds the rows too, and the errors are those of answers that are pulled to the rows seen.
    """
    groups: dict[str, list[ConvRow]] = {}
    for row in library.rows:
        groups.setdefault(model_name(row.block.family, row.block.sizes), []).append(row)
    groups = {name: rows for name, rows in sorted(groups.items()) if len(rows) >= _LEAST_ROWS}
    if not groups:
        raise TargetError(f"convolution library {library.file} has no kind of convolution with {_LEAST_ROWS} rows or more to fit to")
    rng, models, guesses, truths = np.random.default_rng(seed), {}, [], []
    for name, rows in groups.items():
        guess, truth = _held_out(name, rows, rng, keep_rows)
        models[name] = ConvModel(*_fit(rows), len(rows), _error(guess, truth))
        guesses.append(guess)
        truths.append(truth)
    kept = {name: [_packed(row) for row in rows] for name, rows in groups.items()} if keep_rows else {}
    overall = _error(np.concatenate(guesses), np.concatenate(truths))
    head = (target.name, target.runtime, target.precision, target.batch)
    return Prior(*head, _lineage(library, source, licence), overall, models, kept)


def _held_out(name: str, rows: Sequence[ConvRow], rng: np.random.Generator, keep_rows: bool) -> tuple[Floats, Floats]:
    """Return predicted and measured milliseconds of rows that a fit to the others did not see."""
    order = rng.permutation(len(rows))
    cut = max(1, round(_HELD_OUT * len(rows)))
    unseen, seen = [rows[i] for i in order[:cut]], [rows[i] for i in order[cut:]]
    family, calls = rows[0].block.family, _calls(unseen)
    trial = ConvModel(*_fit(seen), len(seen), _error(np.ones(1), np.ones(1)))
    guesses = trial.predict(family, calls)
    if keep_rows:
        guesses = guesses * near_rows(name, trial, [_packed(row) for row in seen]).factors(variables_of(family, calls))
    return guesses, _ms(unseen)


def _packed(row: ConvRow) -> list[float]:
    return [*row.block.sizes, int(row.add), float(f"{row.latency_ms:.5g}")]


def _lineage(library: ConvLibrary, source: str, licence: str) -> dict[str, Any]:
    return {
        "source": source, "licence": licence, "file": library.file, "sha256": library.sha256, "rows_used": len(library.rows),
        "rows_failed": library.failed, "rows_of_other_batches": library.other_batches, "imported": datetime.now(UTC).date().isoformat(),
        "measured_by": "third party, not by this project",
    }  # fmt: skip


def _fit(rows: Sequence[ConvRow]) -> tuple[tuple[float, ...], tuple[tuple[float, float], ...], tuple[float, ...]]:
    family, calls, measured = rows[0].block.family, _calls(rows), _ms(rows)
    features, variables = terms_of(family, calls), variables_of(family, calls)
    terms = _rounded(nonnegative_fit(features, measured))
    box = tuple((float(low), float(high)) for low, high in np.round(np.stack((variables.min(0), variables.max(0)), 1), 4))
    products = polynomial(variables, box)
    missing = np.log(measured / (features @ np.array(terms)))
    square = products.T @ products + _RIDGE * np.eye(products.shape[1])
    return terms, box, _rounded(np.linalg.solve(square, products.T @ missing))


def _error(predicted: Floats, measured: Floats) -> FitError:
    errors = np.abs(predicted / measured - 1)
    figures = (errors.mean(), np.median(errors), np.percentile(errors, 90), predicted.sum() / measured.sum() - 1)
    return FitError(len(measured), *(round(float(value), 4) for value in figures))


def _calls(rows: Sequence[ConvRow]) -> list[tuple[tuple[int, ...], bool]]:
    return [(row.block.sizes, row.add) for row in rows]


def _ms(rows: Sequence[ConvRow]) -> Floats:
    return np.array([row.latency_ms for row in rows])


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)
