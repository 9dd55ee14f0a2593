"""Small BIDS datasets: of empty files to find things in, and of scans that can be run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mrsi_engine.bids.discover import Discovery, Wanted, discover
from mrsi_engine.bids.index import index_datasets
from mrsi_engine.bids.rules import Rules, default_rules
from mrsi_engine.io.nifti_mrs import read_header


def describe(folder: Path, **more: Any) -> None:
    """``dataset_description.json`` and a README of a dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {"Name": folder.name, "BIDSVersion": "1.10.0", **more}
    (folder / "dataset_description.json").write_text(json.dumps(described))
    (folder / "README.md").write_text(
        "# Test data\n\nA small dataset of a test, and nothing else.\n"
    )


def derivative(root: Path, name: str) -> Path:
    """A folder of derivatives that says what it is."""
    folder = root / "derivatives" / name
    if not folder.exists():
        describe(folder, DatasetType="derivative", GeneratedBy=[{"Name": name}])
        # Masks and tissue maps beside spectra have no place in BIDS yet.
        (folder / ".bidsignore").write_text("sub-*/\n")
    return folder


def empty_dataset(root: Path, files: Iterable[str]) -> Path:
    """A dataset of empty files; names without a folder of derivatives stand in it."""
    describe(root)
    for name in files:
        parts = Path(name).parts
        if parts[0] == "derivatives":
            derivative(root, parts[1])
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}" if path.suffix == ".json" else "")
    return root


def found_in(root: Path, wanted: Wanted | None = None, rules: Rules | None = None) -> Discovery:
    """What is found in a dataset, by the default rules unless there are others."""
    return discover(index_datasets(root), rules or default_rules(), wanted)


def add_scan(root: Path, name: str, source: Path, **sidecar: Any) -> Path:
    """Put a NIfTI-MRS file into a dataset with the sidecar that BIDS asks for."""
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    header = read_header(source)
    axis = header.acquisition
    fields: Mapping[str, Any] = {
        "ResonantNucleus": header.extension["ResonantNucleus"],
        "SpectrometerFrequency": header.extension["SpectrometerFrequency"],
        "SpectralWidth": 1 / axis.dwell_time,
        "EchoTime": axis.echo_time,
        **({"MatrixSize": list(header.shape[:3])} if "_mrsi" in name else {}),
        **sidecar,
    }
    (target.parent / target.name.replace(".nii.gz", ".json")).write_text(json.dumps(fields))
    return target


def add_volume(root: Path, made_by: str, name: str, source: Path) -> Path:
    """Put a mask or tissue map into a derivative of a dataset."""
    target = derivative(root, made_by) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    return target


def phantom_dataset(root: Path, phantom: Path, subjects: Iterable[str] = ("01", "02")) -> Path:
    """The phantom as a dataset: a scan a subject with water, mask and tissue."""
    describe(root)
    lines = ["participant_id\tage\tgroup"]
    for number, label in enumerate(subjects):
        stem = f"sub-{label}/ses-1/mrs/sub-{label}_ses-1"
        add_scan(root, f"{stem}_mrsi.nii.gz", phantom / "scan.nii.gz")
        add_scan(root, f"{stem}_acq-conc_mrsref.nii.gz", phantom / "water.nii.gz")
        add_volume(root, "masks", f"{stem}_desc-brain_mask.nii.gz", phantom / "mask.nii.gz")
        for tissue in ("gm", "wm", "csf"):
            name = f"{stem}_label-{tissue.upper()}_probseg.nii.gz"
            add_volume(root, "masks", name, phantom / f"{tissue}.nii.gz")
        lines.append(f"sub-{label}\t{30 + number}\tcontrol")
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")
    return root


def validator_errors(root: Path) -> list[str]:
    """What the validator of BIDS finds wrong with a dataset."""
    command = [
        Path(sysconfig.get_path("scripts")) / "bids-validator-deno",
        root,
        "--format",
        "json",
    ]
    run = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    found = json.loads(run.stdout)
    return [
        f"{issue['code']}: {issue.get('location', '')}"
        for issue in found["issues"]["issues"]
        if issue["severity"] == "error"
    ]
