"""What the results of a scan depend on, known without opening them: who has the same is done.

Quick, and on the safe side: a scan whose fingerprint changed is not refused but looked at. Its
stores, which know exactly what they were made of, then say whether they still hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mrsi_engine.cohort.options import CohortOptions
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.engine.identity import REVISION, sha256, stages_of
from mrsi_engine.io import importing
from mrsi_engine.io.places import fingerprint, place
from mrsi_engine.io.result_schema import SCHEMA_VERSION
from mrsi_engine.io.scan_schema import SCHEMA_VERSION as SCAN_SCHEMA_VERSION
from mrsi_engine.networks.model import is_model, load_model, shipped_models
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice, basis_for
from mrsi_engine.spectra import simulation

#: Of the options of a scan, those that its results and exports depend on.
_OPTIONS = ("keep", "fill", "block_size", "min_usable")


class Fingerprints:
    """Fingerprints of the scans of a cohort; what they share is looked at once.

    Parameters
    ----------
    basis, pipeline
        Of scans that have none of their own.
    """

    def __init__(
        self, basis: BasisChoice | None, pipeline: Pipeline, options: CohortOptions
    ) -> None:
        self._basis, self._pipeline, self._options = basis, pipeline, options
        self._shared: Callable[[str | None, str | None], str] = cache(self._of_settings)

    def of(self, row: ScanRow) -> dict[str, Any]:
        """The fingerprint of a scan: a hash of its settings, and its files by what dates them.

        A file that is not there has none.
        """
        shared = self._shared(row.basis, row.pipeline)
        own = [list(row.tissue_classes), _plain(row.stated)] if _has_own(row) else None
        return {"settings": sha256([shared, own])[:20], "files": dict(_files(row))}

    def _of_settings(self, basis: str | None, pipeline: str | None) -> str:
        choice = basis_for(basis, self._basis)
        steps = self._pipeline if pipeline is None else Pipeline.load(pipeline)
        stages = stages_of(steps)
        scan = {name: getattr(self._options.scan, name) for name in _OPTIONS}
        own = [self._options.points, self._options.keep_personal]
        versions = [REVISION, importing.REVISION, SCHEMA_VERSION, SCAN_SCHEMA_VERSION]
        return sha256([stages, _basis(choice), _models(stages), scan, own, versions])


def _has_own(row: ScanRow) -> bool:
    return bool(row.tissue_classes or row.stated)


def _plain(stated: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: dict(fields) for name, fields in stated.items()}


def _files(row: ScanRow) -> Iterator[tuple[str, str]]:
    """What dates the files of a scan, by their part in it."""
    yield "scan", _dated(row.scan)
    for name, given in row.files.items():
        if isinstance(given, Mapping):
            yield from ((f"{name} {key}", _dated(path)) for key, path in given.items())
        else:
            yield name, _dated(given)


def _dated(path: str | Path) -> str:
    try:
        return fingerprint(place(path))
    except OSError:
        return ""


def _basis(choice: BasisChoice | None) -> Any:
    """How a basis is read, and its content; of a simulated one its name and that of its code."""
    if choice is None:
        return None
    source = place(choice.source)
    how = [choice.reference_ppm, choice.conjugate, choice.te_mismatch]
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.is_file())
        return [how, [[path.name, _content(path)] for path in files]]
    if source.is_file():
        return [how, _content(source)]
    return [how, choice.source, simulation.REVISION]


def _models(stages: list[dict[str, Any]]) -> dict[str, str]:
    """Checksums of trained models that stages may take: the shipped ones, and folders they name."""
    named = [v for table in stages for v in table.values() if isinstance(v, str) and v]
    names = [*shipped_models(), *(name for name in named if is_model(Path(name)))]
    return {name: load_model(name).checksum for name in names}


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
