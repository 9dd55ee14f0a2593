"""The table of a cohort: one line a scan, as TSV or CSV, read into rows and written again."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.companions import TISSUE, CompanionFiles, companions
from mrsi_engine.errors import InputError
from mrsi_engine.input_files import read_input_text
from mrsi_engine.io.files import write_atomically
from mrsi_engine.io.places import place
from mrsi_engine.spectra.simulation import parse_basis_name

#: What BIDS writes where there is nothing.
NOTHING = "n/a"

#: Names in the folder of a cohort that no scan may take.
RESERVED = frozenset({"crash", "ledger", "logs", "mrsi-orig", "voxels"})

#: Lines that are told at once, and how many more only by number.
_MOST_TOLD = 20

_DELIMITERS = {".tsv": "\t", ".txt": "\t", ".csv": ","}
_LABELS = {"subject": "sub", "session": "ses"}
_CLASSES = f"{TISSUE.name}_classes"
_STATED, _REFUSED = "stated", "refused"


def columns_known() -> tuple[str, ...]:
    """Columns that mean something to a cohort, in the order they are written."""
    own = [name for row in companions() for name in (row.name, *row.classes)]
    return ("subject", "session", "scan", *own, _CLASSES, "basis", "pipeline", _STATED, _REFUSED)


def read_table(path: str | Path) -> tuple[ScanRow, ...]:
    """The scans of a table: TSV, or CSV by the end of its name.

    A line a scan. Column ``scan`` is needed; ``subject``, ``session``, ``basis``, ``pipeline`` and
    one for each companion (:mod:`mrsi_engine.companions`: ``mask``, ``water``, ``tissue`` with
    ``tissue_classes``, or ``gm``, ``wm``, ``csf``, ``scalp``...) may be there; ``stated`` holds, as
    JSON, what headers leave open; a scan with a reason in ``refused`` is not run. All others are
    metadata. Paths are relative to the folder of the
    table; ``n/a`` and an empty cell mean none.

    Raises
    ------
    InputError
        If the file cannot be read, column ``scan`` is missing, or lines are wrong: names each line
        and column, what was found and what to do.
    """
    path = place(path)
    folder = path.absolute().parent
    columns, lines = _cells(path)
    found: dict[int, ScanRow] = {}
    problems: list[str] = []
    for number, cells in lines:
        wrong: dict[str, str] = {}
        row = _row(dict(zip(columns, cells, strict=False)), folder, wrong)
        if len(cells) != len(columns):
            problems.append(f"line {number}: {len(cells)} cells, the first line has {len(columns)}")
        elif row is None or wrong:
            problems += [f"line {number}, column {name}: {why}" for name, why in wrong.items()]
        else:
            found[number] = row
    problems += clashes({f"line {number}": row for number, row in found.items()})
    if problems:
        raise InputError(_told(path, problems))
    if not found:
        raise InputError(f"{path}: holds no scan; write a line for each below the first")
    return tuple(found.values())


def write_table(rows: Sequence[ScanRow], path: str | Path) -> Path:
    """Write rows as a table that :func:`read_table` reads back.

    Raises
    ------
    InputError
        If a value cannot stand in a table: a tab or line break in a TSV, or metadata under the
        name of a column that means something.
    RunError
        If the file cannot be written.
    """
    path = place(path)
    delimiter = _delimiter(path)
    table = [_cells_of(row) for row in rows]
    extra = {name for row in rows for name in row.metadata}
    taken = sorted(name for name in extra if column_meant(name))
    if taken:
        raise InputError(f"{path}: metadata {taken} have names of columns; rename them")
    used = {name for cells in table for name in cells} | {"scan"}
    in_order = dict.fromkeys([*columns_known(), *(name for cells in table for name in cells)])
    columns = [name for name in in_order if name in used]
    lines = [columns, *([cells.get(name, NOTHING) for name in columns] for cells in table)]
    broken = [text for cells in lines for text in cells if re.search(r"[\t\r\n]", text)]
    if broken:
        raise InputError(f"{path}: {broken[0]!r} holds a tab or a line break; take it out")
    if delimiter == "\t":
        return write_atomically(path, "".join("\t".join(c) + "\n" for c in lines).encode())
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return write_atomically(path, text.getvalue().encode())


def clashes(rows: Mapping[str, ScanRow]) -> list[str]:
    """What hinders scans from lying in one output folder; the keys say which scan is meant."""
    first: dict[str, str] = {}
    found = []
    for name, row in rows.items():
        folder = row.folder
        if folder in first:
            found.append(
                f"{name}: the same output folder {folder} as {first[folder]}; give subject and "
                "session, or scans of different names"
            )
        if folder.split("/", maxsplit=1)[0].casefold() in RESERVED:
            found.append(f"{name}: {folder} is a folder of the cohort itself; give a subject")
        first.setdefault(folder, name)
    for name, row in rows.items():
        inside = [str(above) for above in Path(row.folder).parents if str(above) in first]
        if inside:
            found.append(
                f"{name}: its output folder {row.folder} would lie in that of {first[inside[0]]}; "
                "give every scan a subject, or none"
            )
    return found


def label(text: str, prefix: str) -> str:
    """A label of BIDS, with or without its prefix (``sub``, ``ses``).

    Raises
    ------
    InputError
        If it is not made of letters and digits: says what would be.
    """
    bare = text.removeprefix(f"{prefix}-")
    if re.fullmatch(r"[A-Za-z0-9]+", bare):
        return bare
    usable = re.sub(r"[^A-Za-z0-9]", "", bare)
    hint = f"; write {usable}" if usable else ""
    raise InputError(f"{text!r} is no label of BIDS, which is letters and digits{hint}")


def _cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Names of the columns, and the cells of each line that is not blank with its number."""
    delimiter = _delimiter(path)
    lines_of = io.StringIO(read_input_text(path), newline="")
    # BIDS knows no quotes in a TSV.
    if delimiter == "\t":
        reader = csv.reader(lines_of, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines_of, delimiter=delimiter)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}") from error
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if not lines:
        raise InputError(f"{path}: empty; its first line names the columns, e.g. subject, scan")
    columns = lines[0][1]
    _check_columns(path, columns, delimiter)
    return columns, lines[1:]


def _delimiter(path: Path) -> str:
    if path.suffix.lower() not in _DELIMITERS:
        raise InputError(f"{path}: expected a table that ends in .tsv (tabs) or .csv (commas)")
    return _DELIMITERS[path.suffix.lower()]


def _check_columns(path: Path, columns: Sequence[str], delimiter: str) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise InputError(f"{path}: columns {', '.join(map(repr, twice))} stand twice; rename one")
    if "" in columns:
        raise InputError(f"{path}: column {1 + columns.index('')} has no name; name or remove it")
    # Taken for metadata, a mask would be left out in silence.
    for name in columns:
        meant = column_meant(name)
        if meant not in (None, name):
            raise InputError(f"{path}: column {name!r}: is it {meant!r}? Rename it")
    if "scan" not in columns:
        other = {"\t": ",", ",": "\t"}[delimiter]
        hint = "; its columns stand apart by " + ("commas" if other == "," else "tabs")
        raise InputError(
            f"{path}: no column 'scan' in its first line, which has {', '.join(columns)}"
            f"{hint if any(other in name for name in columns) else ''}"
        )


def column_meant(name: str) -> str | None:
    """The column that a name seems to mean, ``mask`` for ``Masks``; ``None`` for metadata."""
    folded = re.sub(r"[ -]+", "_", name.strip().casefold())
    spelt = {"participant_id": "subject", "session_id": "session", "filename": "scan"}
    found = [folded, spelt.get(folded, ""), folded.removesuffix("s")]
    return next((one for one in found if one in columns_known()), None)


def _row(cells: Mapping[str, str], folder: Path, wrong: dict[str, str]) -> ScanRow | None:
    """The scan of a line; ``wrong`` gets what is wrong by column."""
    given = {name: text for name, text in cells.items() if text not in ("", NOTHING)}
    labels = {name: _label(name, given, wrong) for name in _LABELS}
    if labels["session"] and not labels["subject"]:
        wrong.setdefault("subject", f"empty, but the session is {labels['session']!r}; give one")
    scan = given.get("scan", "")
    if not re.search(r"[^/]\.nii(\.gz)?$", scan, re.IGNORECASE):
        found = repr(scan) if scan else "empty"
        wrong["scan"] = f"{found}, expected a NIfTI-MRS file that ends in .nii or .nii.gz"
        scan = "scan.nii.gz"
    basis, pipeline = given.get("basis"), given.get("pipeline")
    row = ScanRow(
        _located(scan, folder),
        labels["subject"],
        labels["session"],
        files=dict(_files(given, folder, wrong)),
        tissue_classes=tuple(re.findall(r"[^\s,;]+", given.get(_CLASSES, ""))),
        basis=_located(basis, folder) if basis and parse_basis_name(basis) is None else basis,
        pipeline=_located(pipeline, folder) if pipeline and _is_file(pipeline) else pipeline,
        stated=_stated(given.get(_STATED, "{}"), wrong),
        refused=given.get(_REFUSED, ""),
        metadata={name: text for name, text in given.items() if name not in columns_known()},
    )
    try:
        _ = row.stem
    except InputError as error:
        wrong.setdefault("scan", str(error))
    return None if wrong else row


def _label(column: str, given: Mapping[str, str], wrong: dict[str, str]) -> str | None:
    try:
        return label(given[column], _LABELS[column]) if column in given else None
    except InputError as error:
        wrong[column] = str(error)
        return None


def _files(
    given: Mapping[str, str], folder: Path, wrong: dict[str, str]
) -> Iterator[tuple[str, CompanionFiles]]:
    """Files of each companion that has some: one, or one a class."""
    for row in companions():
        by_class = {name: _located(given[name], folder) for name in row.classes if name in given}
        if row.name in given and by_class:
            wrong[row.name] = f"given once more by {', '.join(by_class)}; leave one of them empty"
        if by_class:
            yield row.name, by_class
        elif row.name in given:
            yield row.name, _located(given[row.name], folder)


def _located(text: str, folder: Path) -> str:
    """A path of the table, or an address of an object store, by itself."""
    # A whole local path stays one also where the table lies on an object store.
    return text if "://" in text or Path(text).is_absolute() else str(folder / text)


def _is_file(pipeline: str) -> bool:
    """Whether it is a file rather than the name of a ready-made pipeline."""
    return "/" in pipeline or pipeline.lower().endswith(".toml")


def _stated(text: str, wrong: dict[str, str]) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        wrong[_STATED] = f"not JSON ({error})"
        return {}
    names = {"scan", *(row.name for row in companions())}
    tables = isinstance(found, dict) and all(isinstance(v, dict) for v in found.values())
    if not tables or not names.issuperset(found):
        wrong[_STATED] = f'{text}, expected JSON such as {{"scan": {{"EchoTime": 0.03}}}}'
        return {}
    return found


def _cells_of(row: ScanRow) -> dict[str, str]:
    """What a line of the table holds of a scan, by column."""
    single = {"subject": row.subject, "session": row.session, "scan": row.scan}
    files: dict[str, str] = {}
    for name, one in row.files.items():
        listed = one if isinstance(one, Mapping) else {name: one}
        files |= {key: str(path) for key, path in listed.items()}
    others = {
        _CLASSES: ",".join(row.tissue_classes),
        "basis": row.basis,
        "pipeline": row.pipeline,
        _STATED: json.dumps(row.stated, sort_keys=True) if row.stated else None,
        _REFUSED: row.refused,
    }
    cells = {**single, **files, **others, **row.metadata}
    return {name: text for name, text in cells.items() if text}


def _told(path: Path, problems: Sequence[str]) -> str:
    more = len(problems) - _MOST_TOLD
    lines = [*problems[:_MOST_TOLD], *([f"and {more} more"] if more > 0 else [])]
    return "\n  ".join([f"{path}: correct these lines and run again:", *lines])
