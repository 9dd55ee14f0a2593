"""A companion is one row of a table and the stage that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from mrsi_engine.cli.options import Files
from mrsi_engine.companions import Companion, Kind, companion, companions, register, unregister
from mrsi_engine.engine.lazy import quantify
from mrsi_engine.errors import InputError
from mrsi_engine.io.importing import changed_since, import_scan
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import Apply, Block, Context, Stage
from mrsi_engine.quantities import Declaration, Quantity, Role
from mrsi_engine.runs.one_scan import Inputs
from tests.io.conftest import AFFINE, random_fids, write_plain, write_scan

SHAPE = (4, 3, 2)


@pytest.fixture
def b1_row() -> Iterator[Companion]:
    """The one row that a B1 map takes."""
    row = register(Companion("b1", Kind.MAP, "Map of B1, relative to the nominal flip angle."))
    yield row
    unregister("b1")


class ReadsB1(Stage):
    """The stage that reads it."""

    stage: ClassVar[str] = ""

    def declare(self, context: Context) -> Declaration:
        return Declaration(measures=(Quantity("seen_b1", Role.QUALITY, "1", "what was read"),))

    def build(self, context: Context) -> Apply:
        assert "b1" in context.companions

        def apply(block: Block) -> None:
            block.measures["seen_b1"] = block.companions["b1"].double()
            block.status = torch.full_like(block.status, 4)

        return apply


def values() -> np.ndarray:
    return np.linspace(0.7, 1.3, 24).reshape(SHAPE).astype(np.float32)


def files(folder: Path, b1: np.ndarray, affine: Any = AFFINE) -> tuple[Path, dict[str, Path]]:
    scan = write_scan(folder / "s.nii", random_fids((*SHAPE, 64)))
    mask = write_plain(folder / "m.nii", np.arange(24).reshape(SHAPE) % 3 == 0)
    return scan, {"mask": mask, "b1": write_plain(folder / "b1.nii", b1, affine)}


def masked(volume: np.ndarray) -> np.ndarray:
    chosen = (np.arange(24).reshape(SHAPE) % 3 == 0).ravel(order="F")
    return volume.ravel(order="F")[chosen]


def test_a_map_from_file_to_stage_and_result(b1_row: Companion, tmp_path: Path) -> None:
    scan, given = files(tmp_path, values())
    store = import_scan(scan, tmp_path / "scan.zarr", **given)
    assert store.companions == ("b1",)
    np.testing.assert_array_equal(store.read("b1", 0, 8), masked(values()))
    pipeline = Pipeline.model_construct(name="b1", stages=(ReadsB1(),))
    lazy = quantify(store, None, pipeline).compute()
    seen = lazy["quality"].sel(measure="seen_b1").values
    np.testing.assert_allclose(seen, masked(values()))


def test_a_map_on_another_grid_is_resampled(b1_row: Companion, tmp_path: Path) -> None:
    coarse = np.diag([2.0, 1.0, 1.0, 1.0])
    coarse[0, 3] = 0.5
    scan, given = files(tmp_path, np.full((2, 3, 2), 0.9, np.float32), AFFINE @ coarse)
    store = import_scan(scan, tmp_path / "scan.zarr", **given)
    np.testing.assert_allclose(store.read("b1", 0, 8), 0.9, rtol=1e-6)
    assert any(note.startswith("b1 trilinearly") for note in store.notes)


def test_another_file_is_another_run(b1_row: Companion, tmp_path: Path) -> None:
    scan, given = files(tmp_path, values())
    store = import_scan(scan, tmp_path / "scan.zarr", **given)
    assert changed_since(store.inputs, scan, **given) == []
    write_plain(given["b1"], 2 * values())
    assert changed_since(store.inputs, scan, **given) == ["b1"]
    assert changed_since(store.inputs, scan, mask=given["mask"]) == ["b1"]


def test_inputs_of_a_run_go_by_the_table(b1_row: Companion) -> None:
    assert Inputs.of(Path("a"), b1=Path("b")).files == {"b1": Path("b")}
    with pytest.raises(InputError, match=r"b0: nothing that may come with a scan; there are mask"):
        Inputs.of(Path("a"), b0=Path("b"))


def test_options_of_the_command_line_are_those_of_the_table() -> None:
    options = {part.name for part in fields(Files)}
    rows = {row.name for row in companions()} | {n for row in companions() for n in row.classes}
    assert rows | {"tissue_classes", "points", "keep_personal"} == options
    assert all(row.help in (Files.__doc__ or "") for row in companions())


def test_a_name_stands_once() -> None:
    with pytest.raises(ValueError, match="another companion 'water'"):
        register(Companion("water", Kind.MAP, "A map of water."))
    assert companion("water").kind is Kind.SIGNAL
