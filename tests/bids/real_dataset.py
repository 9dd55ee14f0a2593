"""Real scans as a BIDS dataset: ``python -m tests.bids.real_dataset FOLDER`` builds one to try."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib

from mrsi_engine.io.nifti_mrs import write_volume
from tests.bids.datasets import add_scan, add_volume, derivative, describe

#: Where real data lie beside the repository; they are no part of it.
DATA = Path(__file__).parents[3] / "shared" / "data"

#: Classes of the tissue file of the slice of a brain, in its order.
_TISSUE = ("background", "CSF", "GM", "WM")


def real_dataset(root: Path) -> Path:
    """A slice of a brain, a grid in a row with a water reference, and raw coils of a voxel.

    ``rules.toml`` beside the dataset says which basis each is fitted with.
    """
    describe(root)
    brain, row, voxel = (DATA / n for n in ("mrsi_3t_brain", "mrsi_3t_te16", "svs_7t_transients"))
    stem = "sub-01/ses-01/mrs/sub-01_ses-01"
    add_scan(root, f"{stem}_acq-slaser_mrsi.nii.gz", brain / "mrsi.nii.gz")
    add_volume(root, "masks", f"{stem}_desc-brain_mask.nii.gz", brain / "mask.nii.gz")
    _add_tissue(root, brain / "tissue_background_csf_gm_wm.nii.gz", stem)
    stem = "sub-02/ses-01/mrs/sub-02_ses-01"
    add_scan(root, f"{stem}_acq-csi_mrsi.nii.gz", row / "mrsi.nii.gz")
    add_scan(root, f"{stem}_acq-csi_mrsref.nii.gz", row / "wref.nii.gz")
    add_volume(root, "masks", f"{stem}_desc-brain_mask.nii.gz", row / "mask.nii.gz")
    stem = "sub-03/ses-01/mrs/sub-03_ses-01"
    add_scan(root, f"{stem}_acq-steam_svs.nii.gz", voxel / "metab_raw.nii.gz")
    add_scan(root, f"{stem}_acq-conc_mrsref.nii.gz", voxel / "wref_raw.nii.gz")
    add_scan(root, f"{stem}_acq-ecc_mrsref.nii.gz", voxel / "ecc.nii.gz")
    people = ("participant_id\tgroup", "sub-01\tbrain", "sub-02\tbrain", "sub-03\tvoxel")
    (root / "participants.tsv").write_text("\n".join(people) + "\n")
    _write_rules(root.with_name("rules.toml"), row / "sim_se_csi_te16.basis")
    return root


def _add_tissue(root: Path, source: Path, stem: str) -> None:
    image = nib.load(source)
    for number, name in enumerate(_TISSUE[1:], 1):
        path = derivative(root, "masks") / f"{stem}_label-{name}_probseg.nii.gz"
        write_volume(path, image.get_fdata()[..., number].astype("f4"), image.affine)


def _write_rules(path: Path, csi: Path) -> None:
    bases = {"slaser": "slaser-3t-te40", "csi": str(csi)}
    scans = [
        f'[[scans]]\nwhere = {{ suffix = "mrsi", acq = "{acq}" }}\nbasis = "{basis}"\n'
        for acq, basis in bases.items()
    ]
    scans.append(
        '[[scans]]\nwhere = { suffix = "svs" }\nbasis = "steam-7t-te11-tm10"\npipeline = "svs"\n'
    )
    path.write_text("\n".join(scans))


if __name__ == "__main__":
    print(real_dataset(Path(sys.argv[1])))
