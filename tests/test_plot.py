"""Figures of a result: what is drawn is what the result says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot as plt

import mrsi_engine as me
from mrsi_engine.conventions import Status
from mrsi_engine.engine.blocks import run_block
from mrsi_engine.engine.finish import finalise
from mrsi_engine.engine.passes import prepare
from mrsi_engine.engine.plan import plan
from mrsi_engine.engine.revisit import detail_voxels, scan_of
from mrsi_engine.errors import InputError
from mrsi_engine.fit.details import FitDetails
from mrsi_engine.io.importing import import_scan
from mrsi_engine.io.map_files import volume
from mrsi_engine.io.result_quantities import relative_crlb
from mrsi_engine.io.result_store import ResultStore
from mrsi_engine.nuclei import nucleus
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.report.html import write_report
from mrsi_engine.runs.opened import open_run
from mrsi_engine.runs.reporting import fitted_examples

STAGES = [
    {"stage": "water_removal"},
    {"stage": "quantify", "errors": "residual", "baseline": {"kind": "spline"}},
    {"stage": "scale", "quantity": "ratio", "reference": "CrPCr"},
]


@pytest.fixture(scope="module")
def folder(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the phantom: 16 voxels, fitted in moments."""
    folder = tmp_path_factory.mktemp("plotted")
    scan = import_scan(phantom / "scan.nii.gz", folder / "scan.zarr", mask=phantom / "mask.nii.gz")
    basis = me.load_basis("press-3t-te30", scan.to_xarray())
    pipeline = Pipeline.from_settings({"name": "plotted", "stages": STAGES})
    todo = plan(scan.path, pipeline, basis, folder / "result.zarr", keep=("fit",))
    prepare(todo)
    for block in range(todo.store.blocks):
        run_block(todo, block)
    finalise(todo)
    return folder


@pytest.fixture
def result(folder: Path) -> xr.Dataset:
    return me.open_result(folder / "result.zarr")


@pytest.fixture(scope="module")
def details(folder: Path) -> FitDetails:
    store = ResultStore.open(folder / "result.zarr")
    return detail_voxels(store, scan_of(store), [3, 9])


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No settings changed, nothing shown, and no figure left open."""
    before = dict(mpl.rcParams)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "show", lambda *_: pytest.fail("a figure was shown"))
        yield
    assert dict(mpl.rcParams) == before
    plt.close("all")


def test_components_and_baseline_add_up_to_the_fit(details: FitDetails, result: xr.Dataset) -> None:
    summed = details.components.sum(1) + details.baseline
    scale = np.abs(details.fit).max()
    assert np.abs(summed - details.fit).max() < 1e-4 * scale
    assert np.abs(details.fit - result["fit"][[3, 9]].values).max() < 1e-4 * scale
    assert details.components.shape == (2, len(details.names), result.sizes["time"])


def test_covariance_is_that_of_the_errors_the_run_wrote(
    details: FitDetails, result: xr.Dataset
) -> None:
    sd = result["sd"][[3, 9]]
    own = np.sqrt(np.diagonal(details.covariance, axis1=1, axis2=2))
    np.testing.assert_allclose(own, sd.sel(parameter=list(details.names)), rtol=1e-3)
    for c in nucleus("1H").sums:
        members = np.array([float(name in c.members) for name in details.names])
        of_sum = np.sqrt(members @ details.covariance @ members)
        np.testing.assert_allclose(of_sum, sd.sel(parameter=c.label), rtol=1e-2)


def test_the_correlation_that_is_drawn_is_that_of_the_covariance(
    details: FitDetails, result: xr.Dataset
) -> None:
    axes = me.plot.correlation(result, 3)
    drawn = np.asarray(axes.images[0].get_array())
    sd = np.sqrt(np.diag(details.covariance[0]))
    np.testing.assert_allclose(drawn, details.covariance[0] / np.outer(sd, sd), atol=1e-4)
    np.testing.assert_allclose(np.diag(drawn), 1.0)
    one, other = (details.names.index(name) for name in ("GPC", "PCh"))
    assert drawn[one, other] < -0.5
    assert [t.get_text() for t in axes.get_yticklabels()] == list(details.names)
    assert f"−{abs(drawn[one, other]):.2f}".replace("0.", ".") in {t.get_text() for t in axes.texts}


def test_fit_draws_the_voxel_in_the_conventions_of_the_field(result: xr.Dataset) -> None:
    place = tuple(int(result[axis][3]) for axis in "xyz")
    axes = me.plot.fit(result.isel(voxel=[9, 3]), place, window=(1.0, 4.0))
    assert axes.get_xlim() == (4.0, 1.0)
    lines = {line.get_label(): line.get_xydata().T for line in axes.lines}
    ppm, data = lines["data"]
    peak = ppm[data.argmax()]
    assert abs(peak - 2.01) < 0.03, "NAA is the tallest"
    residual = lines["residual"][1] - lines["residual"][1].mean()
    np.testing.assert_allclose(
        residual, (data - lines["fit"][1]) - (data - lines["fit"][1]).mean(), atol=1e-6 * data.max()
    )
    names = [label.get_text() for label in axes.get_yticklabels()]
    levels = dict(zip(names, axes.get_yticks(), strict=True))
    shares = {round(float(a.xy[1]), 6): a.get_text() for a in axes.texts}
    percent = float(relative_crlb(result, "NAA")[3])
    assert shares[round(float(levels["NAA"]), 6)].endswith(f" ± {percent:.0f} %")
    curves = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == len(ppm)]
    naa = min(curves, key=lambda y: abs(np.median(y) - levels["NAA"]))
    assert abs(ppm[naa.argmax()] - 2.01) < 0.02


def test_fit_on_axes_that_are_given_and_without_components(result: xr.Dataset) -> None:
    given = plt.figure().add_subplot()
    assert me.plot.fit(result, 3, components=False, ax=given) is given
    assert not given.get_yticklabels()
    assert given.get_xlim() == (4.2, 0.2)


def test_maps_show_the_values_with_the_right_of_the_patient_on_the_left(
    result: xr.Dataset,
) -> None:
    affine = np.asarray(result.attrs["affine"])
    figure = me.plot.maps(result, ["tNAA", "snr"], slices=[0])
    tnaa, snr = (part.axes[0].images[0].get_array().filled(np.nan) for part in figure.subfigs)
    for drawn, values in (
        (tnaa, result["estimate"].sel(parameter="NAANAAG")),
        (snr, result["quality"].sel(measure="snr")),
    ):
        slice_ = volume(result, values.values)[:, :, 0]
        # Rows from anterior down, columns from the patient's right: world x is to the left.
        turned = slice_.T if affine[0, 0] < 0 else slice_[::-1].T
        turned = turned if affine[1, 1] < 0 else turned[::-1]
        np.testing.assert_array_equal(drawn, turned)
    assert [axis.get_ylabel() for axis in figure.subfigs[0].axes[1:]] == ["tNAA (data units)"]
    assert figure.subfigs[0].axes[0].get_title() == "z = 0"


@pytest.mark.parametrize(
    ("name", "quantity", "label"),
    [
        ("NAA", "sd", "NAA, SD (data units)"),
        ("tCho", "crlb", "tCho, CRLB (%)"),
        ("tNAA", "conc", "tNAA"),
        ("shift", "estimate", "Shift (Hz)"),
    ],
)
def test_every_kind_of_map(result: xr.Dataset, name: str, quantity: str, label: str) -> None:
    expected = {
        "NAA": result["sd"].sel(parameter="NAA").values,
        "tCho": relative_crlb(result, "GPCPCh"),
        "tNAA": result["estimate"].sel(parameter="NAANAAG_conc").values,
        "shift": result["estimate"].sel(parameter="shift").values,
    }[name]
    figure = me.plot.maps(result, name, quantity=quantity)
    panel, bar = figure.subfigs[0].axes
    assert bar.get_ylabel() == label
    drawn = panel.images[0].get_array().compressed()
    np.testing.assert_allclose(np.sort(drawn), np.sort(expected[np.isfinite(expected)]))


def test_crlb_against_snr_has_a_point_a_voxel_and_the_limit(result: xr.Dataset) -> None:
    axes = me.plot.crlb_against_snr(result)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["tNAA", "tCr", "tCho", "Glx", "Ins", "limit, 20 %"]
    points = axes.lines[0].get_xydata()
    snr = result["quality"].sel(measure="snr").values
    both = np.stack([snr, relative_crlb(result, "NAANAAG")], 1)
    np.testing.assert_allclose(points, both[np.argsort(snr)])
    medians = axes.lines[1].get_xydata()
    assert len(medians) == 3
    assert medians[0, 1] == pytest.approx(np.median(points[:6, 1]))
    assert axes.lines[-1].get_ydata()[0] == 20.0


def test_names_that_are_none_are_refused_with_those_there_are(result: xr.Dataset) -> None:
    with pytest.raises(InputError, match=r"'NAX'.*Tau.*NAANAAG \(tNAA\).*measures .*snr"):
        me.plot.maps(result, "NAX")
    with pytest.raises(InputError, match="'snr' is a measure, which has no crlb"):
        me.plot.maps(result, "snr", quantity="crlb")
    with pytest.raises(InputError, match="'shift' is no amount"):
        me.plot.crlb_against_snr(result, ["shift"])
    with pytest.raises(InputError, match="quantity = 'mean'"):
        me.plot.maps(result, "NAA", quantity="mean")
    with pytest.raises(InputError, match=r"slices = \[4\]: the volume has axial slices 0 to 0"):
        me.plot.maps(result, "NAA", slices=[4])
    with pytest.raises(InputError, match="the lower one first"):
        me.plot.maps(result, "NAA", limits=(3, 1))
    without = result.sel(parameter=["NAA"])
    with pytest.raises(InputError, match="no concentrations"):
        me.plot.maps(without, "NAA", quantity="conc")
    assert not plt.get_fignums(), "nothing is drawn before everything is known"


@pytest.mark.parametrize("draw", [me.plot.fit, me.plot.correlation])
def test_voxels_that_have_no_fit_are_refused(result: xr.Dataset, draw) -> None:
    with pytest.raises(InputError, match="outside the mask, whose 16 voxels lie within x 1 to 4"):
        draw(result, (0, 0, 0))
    with pytest.raises(InputError, match="voxel 16: the result has voxels 0 to 15"):
        draw(result, 16)
    lost = result.load()
    lost["status"][2] = Status.NO_FIT
    with pytest.raises(InputError, match="voxel 2 was not fitted, its status is 'no fit'"):
        draw(lost, 2)
    scalp = lost.assign_coords(scalp=("voxel", np.arange(16) == 5))
    with pytest.raises(InputError, match="voxel 5 is scalp"):
        draw(scalp, 5)


def test_a_result_without_its_store_or_scan_is_refused(
    folder: Path, result: xr.Dataset, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="not opened from a result store"):
        me.plot.fit(xr.Dataset(dict(result), attrs=result.attrs), 3)
    with pytest.raises(InputError, match="lacks estimate"):
        me.plot.maps(xr.Dataset(), "NAA")
    alone = tmp_path / "result.zarr"
    shutil.copytree(folder / "result.zarr", alone)
    moved = (folder / "scan.zarr").rename(tmp_path / "scan.zarr")
    try:
        assert me.plot.fit(me.open_result(alone), 3, components=False)
        with pytest.raises(InputError, match=r"scan\.zarr nor at .*scan\.zarr; move it back"):
            me.plot.fit(result, 3)
    finally:
        moved.rename(folder / "scan.zarr")
    store = ResultStore.open(folder / "result.zarr")
    other = replace(store, attributes={**store.attributes, "checksum": "0" * 64})
    with pytest.raises(InputError, match="not the scan that"):
        scan_of(other)


def test_the_report_shows_the_median_voxel_in_detail(
    folder: Path, result: xr.Dataset, tmp_path: Path
) -> None:
    examples = {e.title: e for e in fitted_examples(open_run(folder))}
    assert [t for t, e in examples.items() if e.components] == ["Median voxel"]
    median = examples["Median voxel"]
    assert median.baseline is not None
    summed = sum(c.spectrum for c in median.components) + median.baseline
    assert np.abs(summed - median.fit).max() < 1e-4 * np.abs(median.fit).max()
    few = result.sel(parameter=["NAA"], measure=["snr"])
    page = write_report(few, tmp_path / "report.html", examples=[median]).read_text()
    assert page.count('alt="Individual metabolites of the') == 1
    assert page.count('alt="Correlation matrix of the amplitudes of the median voxel"') == 1
