from __future__ import annotations

import math

import numpy as np
import pytest

from mrsi_engine.quantities import (
    amplitude,
    concentration,
    data_share,
    error_part,
    measure_of,
    property_of,
    ratio,
)
from mrsi_engine.report.tables import (
    measure,
    metabolite_table,
    number,
    percentage,
    status_counts,
    usable_voxels,
)
from tests.report.synthetic import amplitudes, brain_result, with_measure, with_parameter


def test_a_row_summarises_the_fitted_voxels_only() -> None:
    result = brain_result((8, 7, 3))
    result["estimate"][0] = 1e9
    row = {r.label: r for r in metabolite_table(result)}["CrPCr"]
    values = result["estimate"].sel(parameter="CrPCr").values[2:]
    percent = 100 * result["sd"].sel(parameter="CrPCr").values[2:] / values
    assert (row.title, row.role, row.unit) == ("tCr", "combination", "a.u.")
    assert row.median == pytest.approx(np.median(values))
    assert row.lower_quartile == pytest.approx(np.quantile(values, 0.25))
    assert row.upper_quartile == pytest.approx(np.quantile(values, 0.75))
    assert row.crlb == pytest.approx(np.median(percent), rel=1e-5)
    assert row.reliable_percent == pytest.approx(100 * np.mean(percent < 20))


def test_a_zero_estimate_is_not_reliable() -> None:
    result = brain_result((8, 7, 3))
    result["estimate"].loc[{"parameter": "NAA"}] = 10.0
    result["sd"].loc[{"parameter": "NAA"}] = 0.1
    fitted = result.sizes["voxel"] - 2
    result["estimate"].loc[{"parameter": "NAA", "voxel": slice(2, 6)}] = 0.0
    row = {r.label: r for r in metabolite_table(result)}["NAA"]
    assert row.reliable_percent == pytest.approx(100 * (fitted - 4) / fitted)


def test_rows_with_a_prior_say_how_much_is_data() -> None:
    result = brain_result((8, 7, 3))
    naa = amplitude("NAA", "amplitude")
    shared = with_measure(result, data_share(naa, "share of NAA"), 0.8)
    rows = {r.label: r.data_percent for r in metabolite_table(shared)}
    assert rows["NAA"] == pytest.approx(80)
    assert math.isnan(rows["Cr"])
    beside = with_measure(result, data_share(naa, "share of NAA", "map"), 0.8)
    beside = with_parameter(beside, naa.by("map"), 1.0, 0.1)
    rows = {r.label: r.data_percent for r in metabolite_table(beside)}
    assert rows["NAA_map"] == pytest.approx(80)
    assert math.isnan(rows["NAA"]), "the main estimator has no prior"


def test_every_role_has_its_place_in_the_table() -> None:
    known = {q.name: q for q in amplitudes()}
    naa, result = known["NAA"], brain_result((6, 6, 2))
    for own in (
        property_of(naa, "t2", "ms", "its T2", "spread", title="T2"),
        ratio(naa, known["CrPCr"], "NAA over tCr", "of both"),
        concentration(naa, "mmol/L", "NAA by water", "of the fit"),
    ):
        result = with_parameter(result, own, 4.0, 1.0)
    result = with_measure(result, measure_of(naa, "score", "1", "its score"), 0.5)
    result = with_measure(result, error_part(naa, "spread", "a part", title="Spread"), 0.1)
    rows = metabolite_table(result)
    assert [r.label for r in rows[:2]] == ["NAA_conc", "NAA_per_CrPCr"]
    assert [r.label for r in rows[-2:]] == ["t2_NAA", "score_NAA"]
    assert len(rows) == 18 + 4, "a part of an error has no row of its own"
    assert (rows[0].crlb, rows[0].reliable_percent) == (25, 0)
    assert math.isnan(rows[-1].coverage_percent)
    assert rows[-1].median == 0.5


def test_nothing_fitted_has_no_numbers() -> None:
    result = brain_result((6, 6, 2)).sel(parameter=["NAA"])
    result["status"][:] = 0
    (row,) = metabolite_table(result)
    assert all(math.isnan(n) for n in (row.median, row.lower_quartile, row.crlb))
    assert math.isnan(row.reliable_percent)
    assert (row.coverage_percent, row.data_percent != row.data_percent) == (0, True)


def test_sums_first_lineshape_never() -> None:
    kinds = [r.role for r in metabolite_table(brain_result((6, 6, 2)))]
    assert kinds == ["combination"] * 4 + ["metabolite"] * 13 + ["macromolecule"]


def test_status_counts_add_up() -> None:
    result = brain_result((8, 7, 3))
    voxels = result.sizes["voxel"]
    counts = status_counts(result)
    assert [(n, c) for n, c, _ in counts] == [
        ("no fit", 1), ("least squares", voxels - 2), ("not processed", 1),
    ]  # fmt: skip
    assert sum(p for *_, p in counts) == pytest.approx(100)


def test_usable_needs_narrow_lines_signal_and_a_fit() -> None:
    result = brain_result((8, 7, 3))
    result["quality"].loc[{"measure": "fwhm"}] = 0.05
    result["quality"].loc[{"measure": "snr"}] = 20.0
    result["quality"].loc[{"measure": "fwhm", "voxel": 4}] = 0.11
    result["quality"].loc[{"measure": "snr", "voxel": 5}] = 2.9
    assert set(np.flatnonzero(~usable_voxels(result))) == {0, 1, 4, 5}


def test_a_measure_that_is_not_stored_is_unknown() -> None:
    assert np.isnan(measure(brain_result((6, 6, 2)), "water_residual")).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345, "12\u2009345"), (0.05678, "0.0568"), (-6.25, "−6.25"), (1234.6, "1\u2009235"),
        (0.0, "0"), (1.28e9, "1.28e+9"), (2.1e-6, "2.1e−6"), (math.nan, "–"), (math.inf, "–"),
        (None, "–"),
    ],
)  # fmt: skip
def test_numbers_for_people(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (100, "100 %"), (99.95, ">99.9 %"), (99.9, "99.9 %"), (37.5, "38 %"), (0.9, "0.9 %"),
        (0.02, "<0.1 %"), (0, "0 %"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_percentages(value: float, text: str) -> None:
    assert percentage(value) == text
