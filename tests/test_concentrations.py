"""From files to concentration maps: water on a coarser grid, voxels without water, sidecars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mrsi_engine.engine.lazy import quantify
from mrsi_engine.io.basis_files import read_basis
from mrsi_engine.io.importing import import_scan
from mrsi_engine.io.lcmodel_results import read_lcmodel_csv
from mrsi_engine.io.map_files import volume
from mrsi_engine.io.nifti_mrs import read_header, write_nifti_mrs
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice, load_basis
from mrsi_engine.runs.one_scan import Inputs, Options, process

TE16 = Path(__file__).resolve().parents[2] / "shared" / "data" / "mrsi_3t_te16"

#: Without attenuation, as the phantom is; its water is that of phantom.py.
TABLE = """
name = "phantom"
spectrometer_frequency = [100, 150]
[water]
gm = { content = 0.78, t1 = 0.001, t2 = 100 }
wm = { content = 0.65, t1 = 0.001, t2 = 100 }
csf = { content = 0.97, t1 = 0.001, t2 = 100, metabolites = false }
[metabolites]
default = { t1 = 0.001, t2 = 100 }
[sources]
all = "the phantom"
"""


@pytest.fixture(scope="module")
def coarse(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Water of voxels twice as large in x and y; the last row of them was not acquired."""
    header = read_header(phantom / "water.nii.gz")
    data = np.asarray(nib.load(phantom / "water.nii.gz").dataobj)
    pairs = data.reshape(3, 2, 3, 2, 1, -1).mean(axis=(1, 3))
    cut = np.diag([2.0, 2.0, 1.0, 1.0])
    cut[:2, 3] = 0.5
    path = tmp_path_factory.mktemp("coarse") / "water.nii.gz"
    return write_nifti_mrs(path, pairs[:, :2], header.acquisition, header.grid.affine @ cut)


#: Left out where amounts do not matter: most of the time goes into pictures of the report.
FEW = ["Ala", "Asc", "Asp", "GABA", "GPC", "GSH", "Glc", "Gln", "Gly", "Lac", "PCh", "PE", "Tau"]


def pipeline(leave_out: Sequence[str] = (), **scale: object) -> Pipeline:
    settings = {"echo_time": 0.03, "repetition_time": 5.0, "water_echo_time": 0.03,
                "water_repetition_time": 5.0, **scale}  # fmt: skip
    stages = [
        {"stage": "water_removal"},
        {"stage": "quantify", "leave_out": leave_out},
        {"stage": "scale", **settings},
    ]
    return Pipeline.from_settings({"name": "concentrations", "stages": stages})


def tissue(phantom: Path) -> dict[str, Path]:
    return {name: phantom / f"{name}.nii.gz" for name in ("gm", "wm", "csf")}


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def begun(path: Path, samples: int, folder: Path) -> Path:
    """A file of the phantom whose first samples were not acquired, as its header says."""
    header = read_header(path)
    axis = header.acquisition.with_points(header.acquisition.points - samples)
    late = replace(axis, start_time=samples * axis.dwell_time)
    new = folder / f"late-{path.name}"
    return write_nifti_mrs(new, read(path)[..., samples:], late, header.grid.affine)


@pytest.mark.parametrize("samples", [(0, 0), (4, 4), (3, 0)])
def test_the_phantom_has_the_concentrations_it_was_made_with(
    phantom: Path, tmp_path: Path, samples: tuple[int, int]
) -> None:
    """The truth is mmol a litre of voxel; concentrations are a litre of the tissue in it.

    They are those at time zero, when ever sampling of the scan and of its water began.
    """
    table = tmp_path / "table.toml"
    table.write_text(TABLE)
    store = import_scan(
        begun(phantom / "scan.nii.gz", samples[0], tmp_path),
        tmp_path / "scan.zarr",
        mask=phantom / "mask.nii.gz",
        water=begun(phantom / "water.nii.gz", samples[1], tmp_path),
        tissue=tissue(phantom),
    )
    basis = load_basis(BasisChoice("press-3t-te30"), store.acquisition)
    done = quantify(store, basis, pipeline(quantity="molar", table=str(table))).compute()
    place = tuple(store.coordinates().T)
    gm, wm, csf = (read(path)[place] for path in tissue(phantom).values())
    water = np.abs(read(phantom / "water.nii.gz")[place][:, 0])
    share = water / (2 * 55_510 * (0.78 * gm + 0.65 * wm + 0.97 * csf))
    given = (gm + wm) > 0.1
    assert given.sum() >= 8
    for name in ("NAANAAG", "CrPCr", "GPCPCh"):
        row = done.sel(parameter=f"{name}_conc")
        truth = read(phantom / f"truth/{name}.nii.gz")[place][given] / (share * (gm + wm))[given]
        z = (row["estimate"].values[given] - truth) / row["sd"].values[given]
        # Sixteen voxels at most: five SD for the worst, four of the mean's for all.
        assert np.abs(z).max() < 5
        assert abs(z.mean()) < 4 / np.sqrt(given.sum())


def test_maps_say_what_they_rest_on(phantom: Path, coarse: Path, tmp_path: Path) -> None:
    done = process(
        Inputs.of(
            phantom / "scan.nii.gz",
            mask=phantom / "mask.nii.gz",
            water=coarse,
            tissue=tissue(phantom),
        ),
        BasisChoice("press-3t-te30"),
        pipeline(FEW, quantity="molal", least_tissue=0.0),
        tmp_path,
        Options(workers=0),
    )
    maps = {path.name: path for path in done.maps}
    path = maps["scan_space-orig_met-NAANAAG_desc-conc_mrsi.nii.gz"]
    sidecar = json.loads((path.parent / path.name.replace(".nii.gz", ".json")).read_text())
    assert sidecar["Units"] == "mmol/kg"
    assert "kg of tissue water" in sidecar["Definition"]
    assumed = sidecar["Assumptions"]
    assert assumed["Water"]["gm"]["t1"] == 1.331
    assert assumed["RepetitionTime"] == 5.0
    assert "Wyss" in assumed["Sources"]["metabolite_t2"]
    assert any("interpolated from 3 x 2 x 1 to 6 x 6 x 1 voxels" in n for n in sidecar["Notes"])
    values = read(path)
    # The water reaches four of six rows, so the mask's fifth has none.
    result = done.result
    reason = volume(result, result["quality"].sel(measure="not_scaled").values)
    assert np.isnan(values[:, 4:]).all()
    fitted = np.isfinite(reason)
    assert (reason[:, 4][fitted[:, 4]] == 1).all()
    assert sidecar["NotScaled"]["Voxels"]["1"] == (reason == 1).sum() > 0
    assert np.isfinite(values[:, :4][fitted[:, :4] & (reason[:, :4] == 0)]).all()
    assert "desc-concsd" in maps["scan_space-orig_met-Ins_desc-concsd_mrsi.nii.gz"].name
    report = done.report.read_text()
    assert "Ratios and concentrations" in report
    assert "fitted but without concentrations" in report


@pytest.mark.skipif(not TE16.exists(), reason=f"the real scan is not at {TE16}")
def test_real_water_that_another_program_lost(tmp_path: Path) -> None:
    """The water's line stands at the edge of the spectrum, where LCModel's integral of it fails.

    Twelve voxels then get amounts of a million and more. The magnitude of their water decays like
    the others'; in four voxels it rises or beats at its start, and those get none.
    """
    store = import_scan(
        TE16 / "mrsi.nii.gz",
        tmp_path / "scan.zarr",
        mask=TE16 / "mask.nii.gz",
        water=TE16 / "wref.nii.gz",
    )
    quantified = Pipeline.load(Path(__file__).parent / "data" / "te16.toml").settings()
    stated = {"echo_time": 0.0156, "water_echo_time": 0.0156}
    scale = pipeline(quantity="molar", tissue={"gm": 0.6, "wm": 0.4}, **stated).settings()
    stages = [*quantified["stages"], scale["stages"][-1]]
    both = Pipeline.from_settings({"name": "te16", "stages": stages})
    done = quantify(store, read_basis(TE16 / "sim_se_csi_te16.basis"), both).compute()
    column = store.coordinates()[:, 0]
    none = done["quality"].sel(measure="not_scaled").values == 1
    assert column[none].tolist() == [25, 29, 44, 78]
    table = read_lcmodel_csv(TE16 / "lcmodel_reference.csv")
    lost = table.query("label == 'Cr' and amplitude > 1e6")["x"]
    assert len(lost) == 12
    creatine = done["estimate"].sel(parameter="Cr_conc").values
    usual = np.nanmedian(creatine)
    among = creatine[np.isin(column, lost)]
    usable = (among > usual / 3) & (among < 3 * usual)
    # The best fit of distorted voxel 97 has no creatine; a fit that had some did not converge.
    assert column[np.isin(column, lost)][~usable].tolist() == [97]
