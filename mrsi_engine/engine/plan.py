"""A plan: what a run is to do, kept in its result store, and a reference to it for every task.

A plan is a reference of a few hundred bytes to a result store, which holds the settings and the
basis. Any process that sees the store can do any block, once or many times, in any order: a block
always writes the same bytes into files no other block touches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mrsi_engine.companions import SCALP
from mrsi_engine.engine.devices import AUTO
from mrsi_engine.engine.identity import changes, identity_of, provenance, sha256
from mrsi_engine.engine.procedure import procedure_for
from mrsi_engine.engine.voxels import PLAIN, ScanLayout
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import stands
from mrsi_engine.io.integrity import OnDamage
from mrsi_engine.io.places import followed, place, way
from mrsi_engine.io.result_store import (
    RESULT_STORE,
    ResultStore,
    mend_frame,
    remove_result,
)
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.spectra.basis import Basis

#: A scan is cut into at least this many blocks, so that workers share it evenly, ...
_LEAST_BLOCKS = 16

#: ... unless blocks would get smaller than this, which batched kernels do not like.
_LEAST_VOXELS = 128


@dataclass(frozen=True)
class Plan:
    """A run that can be done block by block; what travels with every task.

    Parameters
    ----------
    result, scan
        Folders of the result store and of the scan store.
    fingerprint
        SHA-256 of everything the maps depend on.
    device
        Where to compute: ``auto``, ``cpu`` or ``cuda``. Every worker sees for itself what that is
        there, and any may go on with what another left: it is no part of the fingerprint.
    """

    result: str
    scan: str
    fingerprint: str
    device: str = AUTO

    @classmethod
    def open(cls, result_path: str | Path, device: str = AUTO) -> Plan:
        """The plan a result store was made for.

        Raises
        ------
        InputError
            If the folder holds no result store, or one of a newer version.
        """
        store = ResultStore.open(result_path)
        attributes = store.attributes
        return cls(
            str(store.path.resolve()),
            str(scan_folder_of(store)),
            attributes["run_fingerprint"],
            device,
        )

    @property
    def store(self) -> ResultStore:
        """The result store, opened anew."""
        return ResultStore.open(self.result)


def plan(
    scan_path: str | Path,
    pipeline: Pipeline,
    basis: Basis | None,
    result_path: str | Path,
    *,
    block_size: int | None = None,
    keep: Sequence[str] = (),
    overwrite: bool = False,
    device: str = AUTO,
    on_damage: OnDamage | None = None,
) -> Plan:
    """Create the result store of a run, or take up the one that an earlier run left.

    Metadata, coordinates and basis of one that are damaged are put back.

    Parameters
    ----------
    scan_path
        Folder of the scan store.
    pipeline, basis
        What to do. The basis is brought onto the scan's axis here.
    result_path
        Folder of the result store.
    block_size
        Voxels a task; by default the pipeline's, less for a scan of few voxels.
    keep
        Names of the ``(voxel, time)`` signals to store.
    overwrite
        Replace the results of another run instead of refusing.
    device
        Of the workers: ``auto`` takes a GPU where there is one, ``cpu`` or ``cuda``.
    on_damage
        Called with the result store and the files of it that were put back.

    Raises
    ------
    DamagedError
        If the attributes of the result store, or files of the scan store, are missing or damaged.
    InputError
        If the scan, the basis and the pipeline do not fit each other, or ``result_path`` holds
        another run (the message says what differs) or something that is no result store.
    DiskFullError
        If the disk is full.
    """
    scan, path = ScanStore.open(scan_path), place(result_path)
    layout = layout_of(scan)
    procedure = procedure_for(scan.acquisition, pipeline, basis, keep, layout=layout)
    pipeline = procedure.pipeline
    size = block_size or default_block_size(pipeline, scan.voxels, layout)
    identity = identity_of(scan, pipeline, basis, procedure.models, procedure.signals, size)
    create = partial(
        ResultStore.create,
        coordinates=scan.coordinates(),
        acquisition=scan.acquisition,
        declaration=procedure.declaration,
        block_size=size,
        signals=procedure.signals,
        dimensions=procedure.signal_dimensions,
        scalp=scan.read(SCALP.name, 0, scan.voxels),
        basis=procedure.basis,
        attributes={
            **provenance(scan.to_xarray().attrs, pipeline, basis),
            "assumptions": procedure.assumptions,
            "applied": procedure.applied,
            "scan": way(path, scan.path),
            "stage_modules": pipeline.modules,
            "identity": identity,
            "run_fingerprint": sha256(identity),
        },
    )
    if stands(path) and not _continues(path, identity, overwrite):
        remove_result(path)
    if not stands(path):
        create(path)
    damages = mend_frame(path, create)
    if damages and on_damage is not None:
        on_damage(path, damages)
    store = ResultStore.open(path)
    if scan_folder_of(store) != scan.path.resolve():
        store.annotate(scan=way(path, scan.path))
    return Plan.open(path, device)


def scan_folder_of(results: ResultStore) -> Path:
    """Where the scan store of a result lies: its attributes say it from the result's own folder."""
    return followed(results.path, results.attributes["scan"])


def default_block_size(pipeline: Pipeline, voxels: int, layout: ScanLayout = PLAIN) -> int:
    """Voxels a block: the pipeline's, or less so that a small scan still makes several blocks.

    Where a voxel has several FIDs, a block has as many of them, not of voxels.
    """
    even = -(-voxels // _LEAST_BLOCKS)
    signals = math.prod(length for _, length in layout.dimensions)
    return max(1, min(pipeline.block_size, max(even, _LEAST_VOXELS)) // signals)


def layout_of(scan: ScanStore) -> ScanLayout:
    """What a scan store holds beside its axis."""
    return ScanLayout(
        tuple(scan.dimensions.items()), scan.companions, scan.classes, scan.timing, scan.noise
    )


def _continues(path: Path, identity: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether the run at ``path`` is this one; ``False`` if another one may be replaced."""
    if overwrite and RESULT_STORE.holds(path):
        attributes = _attributes_or_none(path)
        return attributes is not None and attributes["identity"] == identity
    differing = list(changes(RESULT_STORE.attributes(path)["identity"], identity))
    if differing:
        raise InputError(
            f"{path}: holds the results of another run; changed since: {'; '.join(differing)}. "
            "Use --overwrite to replace them, or another output folder"
        )
    return True


def _attributes_or_none(path: Path) -> Mapping[str, Any] | None:
    try:
        return RESULT_STORE.attributes(path)
    except InputError:
        return None
