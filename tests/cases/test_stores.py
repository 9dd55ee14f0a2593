"""A chunk that is torn, missing or garbage while its block counts as done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cases.engine import Engine
from tests.cases.scan import Scan


def cut(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])


def garble(chunk: Path) -> None:
    chunk.write_bytes(bytes(255 - byte for byte in chunk.read_bytes()))


def empty(chunk: Path) -> None:
    chunk.write_bytes(b"")


def a_chunk(array: Path) -> Path:
    return next(path for path in sorted((array / "c").rglob("*")) if path.is_file())


DAMAGE = [cut, garble, empty, Path.unlink]


@pytest.mark.case("17", "a chunk of the results is damaged", "named, done again")
@pytest.mark.parametrize("array", ["estimate", "quality", "flags"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
def test_results(engine: Engine, scan: Scan, array: str, damage: Callable[[Path], None]) -> None:
    given = (scan.folder / "scan.nii.gz", "--mask", scan.mask)
    first = engine.run(*given)
    expected, flags = first.map("signal", "NAANAAG"), first.map("flags")
    chunk = a_chunk(first.folder / "result.zarr" / array)
    damage(chunk)
    shutil.rmtree(first.folder / "maps")
    again = engine.run(*given)
    assert again.code == 0, again.text
    np.testing.assert_array_equal(again.map("signal", "NAANAAG"), expected)
    np.testing.assert_array_equal(again.map("flags"), flags)
    assert array in again.text or "again" in again.text


@pytest.mark.case("17", "a chunk of the scan store is damaged", "named, imported again")
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
def test_scan(engine: Engine, scan: Scan, damage: Callable[[Path], None]) -> None:
    given = (scan.folder / "scan.nii.gz", "--mask", scan.mask)
    first = engine.run(*given)
    expected = first.map("signal", "NAANAAG")
    chunk = a_chunk(first.folder / "scan.zarr" / "fid")
    damage(chunk)
    shutil.rmtree(first.folder / "result.zarr")
    shutil.rmtree(first.folder / "maps")
    again = engine.run(*given)
    assert again.code == 0, again.text
    np.testing.assert_array_equal(again.map("signal", "NAANAAG"), expected)
