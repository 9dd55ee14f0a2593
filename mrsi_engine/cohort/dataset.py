"""An output folder as a BIDS derivative: what it says of itself, and what a validator passes over.

BIDS has no names for maps of metabolites yet: ``.bidsignore`` lists all that is not its own.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mrsi_engine.cohort.table import RESERVED
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import write_atomically
from mrsi_engine.io.places import way

#: Version of BIDS whose rules for derivatives are kept.
BIDS_VERSION = "1.10.0"

#: How datasets and their folders are known as made here.
NAME = "mrsi_engine"

_DESCRIPTION = "dataset_description.json"

#: What an output folder says to people who find it.
README = """# Maps of metabolites, made by mrsi_engine {version}

A folder a scan, `sub-*/[ses-*/]SCAN/`:

- `maps/` NIfTI maps on the grid of the scan; the JSON beside each says what its numbers are, and
  what stands where there is no fit.
- `voxels.parquet` the same numbers, a row a voxel; `summary.json` the scan in a few numbers.
- `report.html` spectra, fits, maps and what to think of them.
- `scan.zarr`, `result.zarr` what all of them are made of.

Of all scans:

- `group_mrsi.html`, `group_mrsi.tsv` and `.json` a row a scan: verdict, quality, medians.
- `voxels/` all voxels as one Parquet dataset, by subject and session.
- `cohort.tsv` the scans as they were run, `failed.tsv` those that failed, `crash/` a folder each.
- `logs/CITATION.md` how to describe and cite what was done.

The same command goes on where a run was stopped, and does nothing that is done.
"""


def describe_output(
    out: Path,
    dataset: Path | None = None,
    readme: str = README,
    *,
    others: Collection[str] = (),
) -> None:
    """Write ``dataset_description.json``, ``.bidsignore`` and ``README.md`` of an output folder.

    Parameters
    ----------
    out
        The folder, made if missing.
    dataset
        The BIDS dataset that results are made of.
    readme
        Text of the README; ``{version}`` is the engine's.
    others
        Names of folders in it that BIDS has no names for either: of scans without a subject.

    Raises
    ------
    InputError
        If the folder holds the description of something else.
    RunError
        If a file cannot be written.
    """
    check_output(out, dataset)
    write_atomically(out / _DESCRIPTION, _json(_description(out, dataset)))
    # A folder with a slash behind it would be looked at all the same.
    ignored = [
        "*.tsv",
        "*.json",
        "*.html",
        "cohort.lock*",
        *sorted(RESERVED),
        "sub-*/",
        *sorted(others),
    ]
    lines = ["# BIDS has no names for these yet.", *ignored]
    write_atomically(out / ".bidsignore", ("\n".join(lines) + "\n").encode())
    write_atomically(out / "README.md", readme.format(version=version("mrsi-engine")).encode())


def check_output(out: Path, dataset: Path | None = None) -> None:
    """Refuse a folder that is the dataset itself, or holds one that was not made here.

    Raises
    ------
    InputError
        If it does.
    """
    if dataset is not None and out.resolve() == dataset.resolve():
        raise InputError(f"{out}: is the dataset itself; give another folder for results")
    described = read_description(out)
    makers = [str(by.get("Name")) for by in described.get("GeneratedBy", []) if by]
    if described and NAME not in makers:
        raise InputError(
            f"{out}: holds the dataset {described.get('Name', '')!r}, made by "
            f"{', '.join(makers) or 'nobody that it names'}; give another folder for results"
        )


def read_description(folder: Path) -> dict[str, Any]:
    """What ``dataset_description.json`` of a folder says; empty where there is none.

    Raises
    ------
    InputError
        If it is no JSON of named fields.
    """
    path = folder / _DESCRIPTION
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8-sig")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not JSON of named fields: {error}; correct it") from error


def _description(out: Path, dataset: Path | None) -> dict[str, Any]:
    source = {} if dataset is None else read_description(dataset)
    name = source.get("Name") or (dataset.resolve().name if dataset is not None else out.name)
    described: dict[str, Any] = {
        "Name": f"Metabolite maps of {name}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": NAME,
                "Version": version("mrsi-engine"),
                "Description": "MR spectroscopic imaging to metabolite and uncertainty maps",
            }
        ],
    }
    if dataset is None:
        return described
    link = way(out, dataset)
    origin = {"DOI": source["DatasetDOI"]} if source.get("DatasetDOI") else {"URL": link}
    return {**described, "SourceDatasets": [origin], "DatasetLinks": {"raw": link}}


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
