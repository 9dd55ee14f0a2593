"""LCModel's results: its spreadsheet of many voxels, and the tables of one.

The spreadsheet (``FILCSV``) has one row a voxel and three columns a metabolite; ``.table`` and
``.coord`` files (``FILTAB``, ``FILCOO``) hold a concentration table with one row a metabolite.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.input_files import MOST_BYTES, check_input_file
from mrsi_engine.io.places import place
from mrsi_engine.nuclei import nucleus

_VOXEL = ("Row", "Col")
_EXPECTED = "expected LCModel's CSV, which starts with 'Row, Col, NAME, NAME %SD, NAME/REF'"

_TABLE = "in following concentration table"
_NUMBER = r"[-+]?\d*\.?\d+(?:[Ee][-+]?\d+)?"
_ROW = re.compile(rf"\s*({_NUMBER})\s+(\d+)%\s*({_NUMBER})\s*(\S+)\s*$")
_COLUMNS = re.compile(r"\s*Conc\.\s+%SD\s+/\s*(\S+)\s+Metabolite\s*$")


def lcmodel_label(name: str, symbol: str = "1H") -> str:
    """Our label of LCModel's name: ``mI`` is ``Ins``, ``GPC+PCh`` is ``GPCPCh``.

    A sum is known by its members in any order; one we do not report keeps its members' names.
    """
    table = nucleus(symbol)
    members = [table.canonical_name(part) for part in name.split("+")]
    for combination in table.sums:
        if len(members) > 1 and set(members) == set(combination.members):
            return combination.label
    return "".join(members)


def read_lcmodel(path: str | Path, symbol: str = "1H") -> pd.DataFrame:
    """LCModel's results from a CSV, ``.table`` or ``.coord`` file, known by their content.

    The columns are those of :func:`read_lcmodel_csv`; a file of one voxel does not say which it is,
    so that its table has no ``x`` and ``y``.

    Raises
    ------
    InputError
        As :func:`read_lcmodel_csv`; or if a concentration table has no row that can be read.
    """
    lines = _lines(place(path))
    starts = [number for number, line in enumerate(lines) if _TABLE in line]
    if not starts:
        return read_lcmodel_csv(path, symbol)
    return _one_voxel(lines[starts[0] + 1 :], path, symbol)


def _one_voxel(lines: list[str], path: str | Path, symbol: str) -> pd.DataFrame:
    columns = _COLUMNS.match(lines[0]) if lines else None
    if columns is None:
        raise InputError(
            f"{path}: the concentration table begins with {lines[:1]}, expected 'Conc. %SD /REF "
            "Metabolite'; export it again"
        )
    rows = []
    for line in lines[1:]:
        if (row := _ROW.match(line)) is None:
            break
        rows.append(row.groups())
    if not rows:
        raise InputError(f"{path}: its concentration table has no row; export it again")
    amplitude, percent, ratio, names = zip(*rows, strict=True)
    table = pd.DataFrame(
        {
            "label": [lcmodel_label(name, symbol) for name in names],
            "name": names,
            "amplitude": np.array(amplitude, float),
            "percent_sd": np.array(percent, float),
            "ratio": np.array(ratio, float),
        }
    )
    table.attrs["reference"] = lcmodel_label(columns.group(1), symbol)
    return table


def read_lcmodel_csv(path: str | Path, symbol: str = "1H") -> pd.DataFrame:
    """LCModel's results, one row a voxel and metabolite.

    Parameters
    ----------
    path
        ``FILCSV``.
    symbol
        Nucleus whose names and sums they are.

    Returns
    -------
    DataFrame
        Columns ``x`` and ``y`` (LCModel's ``Col`` and ``Row`` counted from 0), ``label`` (ours),
        ``name`` (LCModel's), ``amplitude`` (in LCModel's units), ``percent_sd`` and ``ratio`` to
        the metabolite whose label is in ``attrs["reference"]``. A voxel without a number (LCModel
        failed there) has NaN.

    Raises
    ------
    InputError
        If the file is missing or empty, is no such table, or a cell holds no number: names the
        line and the column.
    """
    lines = _lines(place(path))
    header = [cell.strip() for cell in lines[0].split(",")]
    names, reference = _names(header, path, symbol)
    rows = [_numbers(line, n, header, path) for n, line in enumerate(lines[1:], 2) if line.strip()]
    if not rows:
        raise InputError(f"{path}: a header but no voxel; {_EXPECTED} and one line a voxel")
    table = _long(np.array(rows), names, symbol)
    repeated = table.duplicated(["x", "y", "label"])
    if repeated.any():
        x, y, label = table.loc[repeated, ["x", "y", "label"]].iloc[0]
        raise InputError(f"{path}: {label} of row {y + 1}, column {x + 1} stands more than once")
    table.attrs["reference"] = reference
    return table


def _lines(path: Path) -> list[str]:
    if path.exists():
        check_input_file(path, MOST_BYTES)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give LCModel's CSV") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}; {_EXPECTED}") from error
    if not lines or not lines[0].strip():
        raise InputError(f"{path}: the first line is empty; {_EXPECTED}")
    return lines


def _names(header: list[str], path: str | Path, symbol: str) -> tuple[list[str], str]:
    names = header[2::3]
    if tuple(header[:2]) != _VOXEL or len(header) < 5 or (len(header) - 2) % 3:
        raise InputError(f"{path}: the header is {', '.join(header[:6])} ...; {_EXPECTED}")
    references = {ratio.removeprefix(f"{n}/") for n, ratio in zip(names, header[4::3], strict=True)}
    for name, percent, ratio in zip(names, header[3::3], header[4::3], strict=True):
        if percent != f"{name} %SD" or not ratio.startswith(f"{name}/"):
            found = f"'{name}' is followed by '{percent}' and '{ratio}'"
            raise InputError(f"{path}: in the header {found}; {_EXPECTED}")
    if len(references) != 1:
        raise InputError(f"{path}: ratios to {sorted(references)} in one table; {_EXPECTED}")
    return names, lcmodel_label(references.pop(), symbol)


def _numbers(line: str, number: int, header: list[str], path: str | Path) -> list[float]:
    cells = line.split(",")
    if len(cells) != len(header):
        raise InputError(
            f"{path}: line {number} has {len(cells)} cells, the header {len(header)}; the file is "
            "cut or edited, export it again"
        )
    return [_number(c, h, number, path) for c, h in zip(cells, header, strict=True)]


def _number(cell: str, column: str, line: int, path: str | Path) -> float:
    where = f"{path}: line {line}, column '{column}'"
    try:
        value = float(cell)
    except ValueError as error:
        raise InputError(f"{where}: {cell.strip()!r} is no number; export it again") from error
    if column in _VOXEL and not (value >= 1 and value.is_integer()):
        raise InputError(f"{where}: {cell.strip()!r} is no voxel number; they count from 1")
    return value


def _long(rows: NDArray[np.float64], names: list[str], symbol: str) -> pd.DataFrame:
    voxels, values = rows[:, :2].astype(int) - 1, rows[:, 2:].reshape(len(rows), len(names), 3)
    count = len(names)
    return pd.DataFrame(
        {
            "x": np.repeat(voxels[:, 1], count),
            "y": np.repeat(voxels[:, 0], count),
            "label": np.tile([lcmodel_label(n, symbol) for n in names], len(rows)),
            "name": np.tile(names, len(rows)),
            "amplitude": values[..., 0].ravel(),
            "percent_sd": values[..., 1].ravel(),
            "ratio": values[..., 2].ravel(),
        }
    )
