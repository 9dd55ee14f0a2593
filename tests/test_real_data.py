"""Real scans end to end with ``mrsi run``: a brain slice, a poor one, one LCModel has fitted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mrsi_engine import cli
from mrsi_engine.conventions import Flag
from mrsi_engine.io.lcmodel_results import read_lcmodel_csv
from mrsi_engine.io.result_quantities import total_of
from mrsi_engine.io.result_store import open_result
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.report.compare import Comparison, compare_with_lcmodel
from mrsi_engine.report.tables import estimate, measure, usable_voxels

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BRAIN, TE16 = SHARED / "mrsi_3t_brain", SHARED / "mrsi_3t_te16"

needs_data = pytest.mark.skipif(
    not (BRAIN.exists() and TE16.exists()), reason=f"the real scans are not at {SHARED}"
)
pytestmark = [needs_data, pytest.mark.usefixtures("basis_cache")]


def run(scan: Path, basis: str | Path, out: Path, *options: object) -> Path:
    command = ["run", scan, "--basis", basis, "--out", out, "--workers", 0, *options]
    cli.main([str(argument) for argument in command])
    return out


def result_of(folder: Path) -> xr.Dataset:
    return open_result(folder / "result.zarr").load()


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory, basis_cache: Path) -> Path:
    return run(
        *(BRAIN / "mrsi.nii.gz", "slaser-3t-te40", tmp_path_factory.mktemp("brain")),
        *("--mask", BRAIN / "mask.nii.gz"),
        *("--tissue", BRAIN / "tissue_background_csf_gm_wm.nii.gz"),
        *("--tissue-classes", "background", "csf", "gm", "wm"),
    )


@pytest.fixture(scope="module")
def result(brain: Path) -> xr.Dataset:
    return result_of(brain)


class TestBrain:
    """The bars of the issue for a slice with residual water and a simulated basis."""

    def test_every_voxel_is_fitted(self, result: xr.Dataset) -> None:
        assert result.sizes["voxel"] == 118
        assert np.isfinite(estimate(result, "NAANAAG")).all()

    def test_naa_follows_the_tissue(self, brain: Path, result: xr.Dataset) -> None:
        """Measured 0.65."""
        store = ScanStore.open(brain / "scan.zarr")
        tissue = store.read("tissue", 0, store.voxels)
        assert tissue is not None
        share = tissue[:, [store.classes["tissue"].index(name) for name in ("gm", "wm")]].sum(1)
        assert np.corrcoef(estimate(result, "NAANAAG"), share)[0, 1] >= 0.5

    @pytest.mark.parametrize(
        ("label", "low", "high"),
        [("NAANAAG", 1.2, 2.0), ("GPCPCh", 0.15, 0.35), ("Ins", 0.4, 1.0)],
    )
    def test_ratios_to_creatine(
        self, result: xr.Dataset, label: str, low: float, high: float
    ) -> None:
        """Measured 1.71, 0.24 and 0.60."""
        ratio = estimate(result, label) / estimate(result, "CrPCr")
        assert low <= np.median(ratio) <= high

    def test_shifts(self, result: xr.Dataset) -> None:
        """Of the data as acquired, where there are any to measure; measured -2.9 to 6.9 Hz."""
        shift = total_of(result, "b0shift")["estimate"].values[usable_voxels(result)]
        assert np.abs(shift).max() <= 15

    def test_water_is_removed(self, result: xr.Dataset) -> None:
        """It is 4 to 8 times the NAA peak, so 16 to 64 times its energy, before."""
        assert np.median(measure(result, "water_residual")) < 0.03


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory, basis_cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("artefact")
    return run(BRAIN / "mrsi_artefact.nii.gz", "slaser-3t-te40", folder)


class TestArtefact:
    """A poor slice, of which no mask is known, looks poor by its own quality maps.

    Flagged means: fewer than six in ten voxels are usable (FWHM at most 0.1 ppm and SNR at least
    3, which the head of the report states), where the good slice has more than nine in ten; and
    fits that found no minimum stand out in the map of convergence. Measured 43 %, against 96 % of
    the good slice, and 94 % of it without its mask; inside the mask of the good slice, which
    covers the middle of the brain, 81 % of the poor one.
    """

    def test_is_flagged(self, result: xr.Dataset, artefact: Path) -> None:
        poor = result_of(artefact)
        assert usable_voxels(result).mean() > 0.9
        assert usable_voxels(poor).mean() < 0.6
        lost = [np.mean(measure(r, "converged") == 0) for r in (result, poor)]
        assert lost[0] < 0.05 < lost[1]

    def test_the_report_says_so(self, brain: Path, artefact: Path) -> None:
        pages = [(folder / "report.html").read_text() for folder in (brain, artefact)]
        shares = [re.findall(r"<strong>([\d.]+) %</strong>usable spectra", page) for page in pages]
        assert [len(share) for share in shares] == [1, 1]
        assert float(shares[0][0]) > 90
        assert float(shares[1][0]) < 60


@pytest.fixture(scope="module")
def te16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(
        *(TE16 / "mrsi.nii.gz", TE16 / "sim_se_csi_te16.basis"),
        *(tmp_path_factory.mktemp("te16"), "--mask", TE16 / "mask.nii.gz"),
        *("--pipeline", Path(__file__).parent / "data" / "te16.toml"),
    )


@pytest.fixture(scope="module")
def comparison(te16: Path) -> Comparison:
    return compare_with_lcmodel(result_of(te16), read_lcmodel_csv(TE16 / "lcmodel_reference.csv"))


class TestLCModel:
    """The same voxels and basis as LCModel; bounds of r and of the limits of agreement lie beyond
    the 5 % and 95 % quantiles of a bootstrap over voxels.

    With creatine's CH2 as the basis has it and no own shifts, r were 0.94, 0.95, 0.98, 0.83 and
    0.80, and differences in percent 12.5 +- 20.2, 25.7 +- 34.1, 14.4 +- 19.5, 7.3 +- 40.0 and
    14.1 +- 32.6.
    """

    def test_the_noise_is_known_to_be_unknown(self, te16: Path) -> None:
        """Filtered before export. SDs are of the residual, which the pipeline asks for."""
        result = result_of(te16)
        assert (result["flags"].values & int(Flag.UNKNOWN_NOISE) != 0).all()
        assert np.isnan(measure(result, "snr")).all()
        sd = result["sd"].sel(parameter="NAANAAG").values
        assert np.isfinite(sd).mean() > 0.9
        assert "cannot be measured" in " ".join(result.attrs["notes"])

    @pytest.mark.parametrize(
        ("label", "voxels", "r"),
        [
            *(("NAANAAG", 70, 0.93), ("GPCPCh", 60, 0.96), ("NAA", 65, 0.95)),
            *(("GluGln", 60, 0.89), ("Ins", 75, 0.75), ("GPC", 38, 0.93)),
        ],
    )
    def test_ratios_go_with_lcmodels(
        self, comparison: Comparison, label: str, voxels: int, r: float
    ) -> None:
        """Measured 0.97 (79 voxels), 0.99 (67), 0.98 (75), 0.94 (69), 0.84 (86) and 0.98 (43)."""
        assert comparison[label].voxels >= voxels
        assert comparison[label].r >= r

    @pytest.mark.parametrize(
        ("label", "bias", "half_width"),
        [
            *(("NAANAAG", 6, 18), ("GPCPCh", 9, 23), ("NAA", 6, 23)),
            *(("GluGln", 7, 28), ("Ins", 7, 36), ("GPC", 10, 32)),
        ],
    )
    def test_ratios_agree_with_lcmodels(
        self, comparison: Comparison, label: str, bias: float, half_width: float
    ) -> None:
        """Measured 3.2 +- 13.5 %, 5.9 +- 17.6, 2.5 +- 17.8, 3.1 +- 21.3, 2.2 +- 29.7, and
        4.7 +- 23.3."""
        agreement = comparison[label].percent_agreement
        assert abs(agreement.bias) <= bias
        assert agreement.half_width <= half_width

    def test_the_command_prints_and_draws_it(
        self, te16: Path, comparison: Comparison, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cli.main(["compare", str(te16), "--lcmodel", str(TE16 / "lcmodel_reference.csv")])
        printed = capsys.readouterr().out
        row = comparison["NAANAAG"]
        assert re.search(rf"tNAA +│ +{row.voxels} │ +{row.r:.3f} │ +{row.slope:.3f} ", printed)
        assert f"{comparison.passing} of {comparison.compared} voxels pass" in printed
        agreement = row.percent_agreement
        limits = f"{agreement.bias:+.1f} ± {agreement.half_width:.1f}"
        assert f"{limits} │" in printed
        page = (te16 / "report.html").read_text()
        assert "Bland-Altman plots" in page
        assert limits in page
