"""Stores on object stores: the same bytes as on disk, and never half of one that counts.

The object store is one in memory, whose process "dies" before any of its changes.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import scipy.io
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem

from mrsi_engine.conventions import Acquisition, Status
from mrsi_engine.errors import DamagedError, InputError, RunError
from mrsi_engine.io.basis_files import read_basis, write_basis
from mrsi_engine.io.files import leftovers, remove_leftover, stands, write_atomically
from mrsi_engine.io.importing import changed_since, import_scan
from mrsi_engine.io.nifti_mrs import read_header, write_nifti_mrs
from mrsi_engine.io.places import filesystem, key, place
from mrsi_engine.io.result_schema import BlockArrays
from mrsi_engine.io.result_store import (
    RESULT_STORE,
    ResultStore,
    mend_frame,
    open_result,
    remove_result,
)
from mrsi_engine.io.scan_store import SCAN_STORE, ScanStore, damaged_files
from mrsi_engine.io.summaries import Summaries
from mrsi_engine.quantities import Declaration, amplitude, quality, signal
from tests.io.basis_texts import lcmodel_text, osprey_struct
from tests.io.conftest import random_fids, write_plain, write_scan

ACQUISITION = Acquisition(points=8, dwell_time=5e-4, spectrometer_frequency=123.25, echo_time=0.03)
DECLARATION = Declaration(
    parameters=(amplitude("NAA", "NAA", title="NAA", units="as data"),),
    measures=(quality("snr", "1", "signal to noise ratio", fill=0.0),),
    signals=(signal("fit", "modelled FID", "as data"),),
)
PLACES = np.argwhere(np.ones((5, 2, 1))).astype(np.int32)
STATE = {"template": np.arange(5.0), "threshold": np.array(2.0)}


class Killed(BaseException):
    """What no code of ours catches."""


class Mortal(dict[str, Any]):
    """The objects of the store, which a process dies over before a change of them."""

    changes = 0
    last = -1

    def _change(self) -> None:
        if self.changes == self.last:
            raise Killed
        self.changes += 1

    def __setitem__(self, name: str, value: Any) -> None:
        self._change()
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self._change()
        super().__delitem__(name)


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Mortal:
    found = Mortal()
    monkeypatch.setattr(MemoryFileSystem, "store", found)
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    return found


@pytest.fixture
def home(objects: Mortal) -> Path:
    """A folder of the store."""
    return place("memory://bucket/home")


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a place, by its name there."""
    if isinstance(folder, Path):
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    store, start = filesystem(folder), len(key(folder)) + 1
    return {name[start:]: store.cat_file(name) for name in store.find(key(folder))}


def create(path: Path) -> ResultStore:
    return ResultStore.create(
        path, PLACES, ACQUISITION, DECLARATION, block_size=4, signals=("fit",), attributes={"a": 1}
    )


def finish(store: ResultStore) -> ResultStore:
    for block in range(store.blocks):
        start, stop = store.region(block)
        arrays = BlockArrays.unfitted(stop - start, DECLARATION, {"fit": (ACQUISITION.points,)})
        arrays.estimate[:] = block
        arrays.status[:] = Status.LEAST_SQUARES
        store.write_block(start, arrays)
    return store.annotate(finished="2026-01-01T00:00:00")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A scan with water and mask."""
    shape = (4, 3, 2)
    mask = write_plain(tmp_path / "mask.nii.gz", np.arange(24).reshape(shape) % 3 == 0)
    return {
        "scan": write_scan(tmp_path / "scan.nii.gz", random_fids((*shape, 16))),
        "mask": mask,
        "water": write_scan(tmp_path / "water.nii", random_fids((*shape, 16), seed=1), version=1),
    }


@pytest.fixture
def far(home: Path, files: dict[str, Path]) -> dict[str, Path]:
    """The same files on the object store."""
    for path in files.values():
        (home / path.name).write_bytes(path.read_bytes())
    return {name: home / path.name for name, path in files.items()}


def test_a_result_is_the_same_on_an_object_store(home: Path, tmp_path: Path) -> None:
    for folder in (home, tmp_path):
        store = create(folder / "out")
        assert store.missing() == [0, 1, 2]
        store.states.write(0, 0, STATE)
        assert store.states.has(0, 0)
        assert not store.states.has(0, 1)
        np.testing.assert_array_equal(store.states.read(0, 1)["template"], STATE["template"])
        finish(store)
    assert contents(home) == contents(tmp_path)
    result = open_result(str(home / "out"))
    assert result.encoding["source"] == "memory://bucket/home/out"
    xr.testing.assert_identical(result, open_result(tmp_path / "out"))
    assert ResultStore.open(home / "out").missing() == []


def test_a_scan_is_imported_from_and_to_an_object_store(
    home: Path, far: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    scan, others = far.pop("scan"), far
    store = import_scan(str(scan), str(home / "scan.zarr"), **others)
    near = import_scan(files.pop("scan"), tmp_path / "scan.zarr", **files)
    assert contents(store.path) == contents(near.path)
    assert not changed_since(store.inputs, scan, **others)
    assert damaged_files(store.path) == []
    reopened = ScanStore.open(str(store.path))
    np.testing.assert_array_equal(reopened.read_fids(0, 8), near.read_fids(0, 8))
    xr.testing.assert_identical(reopened.to_xarray(), near.to_xarray())
    assert set(contents(home)) - {f"scan.zarr/{name}" for name in contents(near.path)} == {
        path.name for path in [scan, *others.values()]
    }


def test_bad_files_on_an_object_store_are_refused_by_their_address(
    home: Path, far: dict[str, Path]
) -> None:
    with pytest.raises(InputError, match=r"memory://bucket/home/none\.nii: no such file"):
        read_header(home / "none.nii")
    (home / "text.nii").write_bytes(b"text" * 500)
    with pytest.raises(InputError, match=r"memory://.*text\.nii: not a NIfTI file"):
        read_header(home / "text.nii")
    far["scan"].write_bytes(gzip.compress(gzip.decompress(far["scan"].read_bytes())[:-8]))
    with pytest.raises(InputError, match=r"memory://.*scan\.nii\.gz: truncated"):
        import_scan(far["scan"], home / "scan.zarr")
    assert not (home / "scan.zarr").exists()


def state_of(home: Path) -> None:
    states = ResultStore.open(home / "store").states
    if not states.has(0, 0):
        states.write(0, 0, STATE)


def create_once(home: Path) -> None:
    if not stands(home / "store"):
        create(home / "store")


def import_again(home: Path, **options: Any) -> None:
    import_scan(home / "scan.nii.gz", home / "store", **options)


def import_once(home: Path) -> None:
    if not SCAN_STORE.holds(home / "store"):
        import_again(home)


#: What stands there before, what is done, and what the next run does if that is interrupted.
Step = Callable[[Path], object]
DONE: dict[str, tuple[Step, Step, Step]] = {
    "create": (lambda home: None, create_once, create_once),
    "remove": (create_once, lambda home: remove_result(home / "store"), create_once),
    "import": (lambda home: None, import_once, import_once),
    "replace": (
        lambda home: import_again(home, points=8),
        lambda home: import_again(home, overwrite=True),
        lambda home: import_again(home, overwrite=True),
    ),
    "state": (create_once, state_of, state_of),
}


@pytest.mark.parametrize("what", DONE)
def test_whoever_dies_leaves_no_half_store_and_the_next_one_goes_on(
    what: str, objects: Mortal, home: Path, far: dict[str, Path]
) -> None:
    before, do, go_on = DONE[what]
    before(home)
    begun = dict(objects)
    objects.changes = 0
    do(home)
    changes = objects.changes
    go_on(home)
    expected = contents(home)
    for last in sorted({*range(4), changes // 2, *range(changes - 3, changes)}):
        objects.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]
        objects.update(begun)
        objects.changes, objects.last = 0, last
        with pytest.raises(Killed):
            do(home)
        objects.last = -1
        _check_none_or_whole(home / "store")
        go_on(home)
        for leftover in leftovers(home / "store"):
            remove_leftover(leftover)
        assert contents(home) == expected


def _check_none_or_whole(path: Path) -> None:
    if RESULT_STORE.holds(path):
        ResultStore.open(path).check()
    elif SCAN_STORE.holds(path):
        assert damaged_files(path) == []
    else:
        assert not stands(path)


def test_a_store_that_stands_is_not_built_over(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(create(home / "out"))
    before = contents(home)
    with pytest.raises(InputError, match="exists already"):
        create(home / "out")
    # Whoever was stopped meanwhile and goes on now asked before it was there.
    monkeypatch.setattr("mrsi_engine.io.result_store.stands", lambda path: False)
    with pytest.raises(FileExistsError):
        create(home / "out")
    assert contents(home) == before


DAMAGE = {
    "estimate/c/0/0": "block 0",
    "fit/c/1/0": "block 1",
    "status/c/2": "",
    "unit/c/0": "",
    "sd/zarr.json": "",
}


@pytest.mark.parametrize("way", ["lost", "altered"])
@pytest.mark.parametrize("file", DAMAGE)
def test_damage_is_found_and_mended(file: str, way: str, home: Path) -> None:
    path = finish(create(home / "out")).path
    whole = (path / file).read_bytes()
    if way == "lost":
        (path / file).unlink()
    else:
        (path / file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedError, match=rf"memory://bucket/home/out: damaged: {file} is"):
        ResultStore.open(path).check()
    damages = [str(damage) for damage in mend_frame(path, create)]
    store, more = ResultStore.open(path).forget_damaged()
    assert [file in told and DAMAGE[file] in told for told in [*damages, *map(str, more)]] == [True]
    finish(store)
    ResultStore.open(path).check()
    assert (path / file).read_bytes() == whole


def test_damaged_states_and_scans_are_told(home: Path, far: dict[str, Path]) -> None:
    store = create(home / "out")
    store.states.write(0, 0, STATE)
    (store.path / "state/0/0/template/c/0").unlink()
    with pytest.raises(DamagedError, match="pass 1 of stage 1"):
        store.states.read(0, 1)
    assert len(store.states.forget_damaged()) == 1
    assert not store.states.has(0, 0)
    scan = import_scan(far["scan"], home / "scan.zarr")
    (scan.path / "fid/c/0/0").unlink()
    assert [damage.file for damage in damaged_files(scan.path)] == ["fid/c/0/0"]
    with pytest.raises(DamagedError, match="fid/c/0/0 is missing"):
        ScanStore.open(scan.path)


def test_summaries_travel_over_an_object_store(home: Path) -> None:
    store = create(home / "out").annotate(run_fingerprint="a" * 64)
    summaries = Summaries.of(store, 0, 1)
    assert summaries.missing(2) == [0, 1]
    summaries.write(1, STATE)
    assert summaries.missing(2) == [0]
    np.testing.assert_array_equal(summaries.read(1)["template"], STATE["template"])
    assert store.remove_leftovers() == 1
    assert summaries.missing(2) == [0, 1]


def test_bases_are_read_from_an_object_store(home: Path, truth: Any, tmp_path: Path) -> None:
    for folder in (home, tmp_path):
        write_basis(truth, folder / "json")
    np.testing.assert_array_equal(
        read_basis(home / "json").fids, read_basis(tmp_path / "json").fids
    )
    with pytest.raises(InputError, match="not empty"):
        write_basis(truth, home / "json")
    (home / "a.basis").write_text(lcmodel_text(truth))
    scipy.io.savemat(tmp_path / "a.mat", {"BASIS": osprey_struct(truth)})
    (home / "a.mat").write_bytes((tmp_path / "a.mat").read_bytes())
    for name in ("a.basis", "a.mat"):
        assert read_basis(str(home / name)).names == truth.names


def test_files_are_written_to_an_object_store(home: Path, tmp_path: Path) -> None:
    fids = random_fids((2, 2, 1, 8))
    for folder in (home, tmp_path):
        write_nifti_mrs(folder / "a.nii", fids, ACQUISITION, np.eye(4))
        write_atomically(folder / "deep" / "b.txt", b"text")
    assert contents(home) == contents(tmp_path)
    assert nib.Nifti2Image.from_bytes((home / "a.nii").read_bytes()).shape == (2, 2, 1, 8)
    with pytest.raises(InputError, match=r"ends in \.nii"):
        write_nifti_mrs(home / "a.txt", fids, ACQUISITION, np.eye(4))


def test_an_object_store_that_refuses_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **named: object) -> Iterator[None]:
        raise PermissionError(13, "Forbidden")

    monkeypatch.setattr(MemoryFileSystem, "_open", refuse)
    with pytest.raises(RunError, match="memory://bucket/home/a: could not write"):
        write_atomically(home / "a", b"")
    with pytest.raises(InputError, match="no permission"):
        create(home / "out")
