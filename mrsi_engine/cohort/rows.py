"""A scan of a cohort: where its files are and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mrsi_engine.companions import CompanionFiles
from mrsi_engine.io.files import safe_stem
from mrsi_engine.io.nifti_mrs import stem_of
from mrsi_engine.io.places import is_remote, place
from mrsi_engine.runs.one_scan import Inputs


@dataclass(frozen=True)
class ScanRow:
    """One scan of a cohort; all paths are absolute, or addresses of an object store.

    Parameters
    ----------
    scan
        NIfTI-MRS file.
    subject, session
        Labels without ``sub-`` and ``ses-``.
    files
        What comes with it, by the names of :mod:`mrsi_engine.companions`.
    tissue_classes
        What the last dimension of a 4-D tissue file holds.
    basis, pipeline
        Of this scan; those of the cohort where there is none.
    stated
        Fields of NIfTI-MRS that are said of ``scan`` or a companion (by its name) beside its file,
        e.g. by a BIDS sidecar: they fill what the header leaves open and must not contradict it.
    refused
        Why it cannot run, where that is known before its files are read.
    metadata
        Whatever else the table says of it, as text; it travels into the tables.
    """

    scan: str
    subject: str | None = None
    session: str | None = None
    files: Mapping[str, CompanionFiles] = field(default_factory=dict)
    tissue_classes: tuple[str, ...] = ()
    basis: str | None = None
    pipeline: str | None = None
    stated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """What the names of its maps begin with."""
        return safe_stem(stem_of(self.scan))

    @property
    def name(self) -> str:
        """Name of its folder: the stem, and its suffix where that is not ``mrsi``.

        A session may hold ``sub-01_mrsi`` and ``sub-01_svs``.
        """
        _, _, suffix = stem_of(self.scan).rpartition("_")
        return f"{self.stem}_{suffix}" if suffix in ("svs", "unloc", "mrsref") else self.stem

    @property
    def folder(self) -> str:
        """Its folder inside that of the cohort, the name by which a cohort knows it.

        ``sub-01/ses-02/NAME``; without labels the name alone.
        """
        labels = [f"sub-{self.subject}"] if self.subject else []
        labels += [f"ses-{self.session}"] if self.session else []
        return str(PurePosixPath(*labels, self.name))

    def inputs(self, points: int | None = None, keep_personal: bool = False) -> Inputs:
        """Its files as a run of one scan takes them.

        Raises
        ------
        InputError
            If there is no companion of a name, or an address is none.
        """
        return Inputs.of(
            place(self.scan),
            tissue_classes=self.tissue_classes,
            points=points,
            keep_personal=keep_personal,
            stated=self.stated,
            **self.files,
        )


def row_of(inputs: Inputs) -> ScanRow:
    """The row of a scan whose files were given one by one."""
    files = {
        name: {key: _whole(path) for key, path in given.items()}
        if isinstance(given, Mapping)
        else _whole(given)
        for name, given in inputs.files.items()
    }
    return ScanRow(_whole(inputs.scan), files=files, tissue_classes=inputs.tissue_classes)


def _whole(path: str | Path) -> str:
    found = place(path)
    return str(found if is_remote(found) else found.absolute())
