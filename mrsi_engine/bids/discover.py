"""The scans of a BIDS dataset and what comes with each, as the rows of a cohort."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mrsi_engine.bids.index import BIDSFile, Index
from mrsi_engine.bids.rules import Rules, ScanRule, Where, fits, shared
from mrsi_engine.bids.sidecars import (
    Sidecars,
    acquisition_fields,
    reference_files,
)
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.cohort.table import NOTHING, column_meant, label
from mrsi_engine.companions import TISSUE, WATER, CompanionFiles
from mrsi_engine.errors import InputError

#: Entities of scans that tell one acquisition of a session from another, for the tables.
_SHOWN = ("task", "acq", "nuc", "voi", "rec", "run", "echo", "inv")


@dataclass(frozen=True)
class Wanted:
    """Which part of a dataset: labels with or without their prefix, none for all.

    ``filters`` are those of ``--bids-filter-file``, by suffix of scans and name of companions.
    """

    subjects: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    filters: Mapping[str, Where] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Discovery:
    """What a dataset holds.

    ``rows`` are all its scans, those that cannot run with the reason; ``notes`` say what was left
    out, and why.
    """

    rows: tuple[ScanRow, ...]
    notes: tuple[str, ...] = ()


def discover(index: Index, rules: Rules, wanted: Wanted | None = None) -> Discovery:
    """The scans of a dataset that rules and filters choose, and what comes with each.

    Raises
    ------
    InputError
        If a subject or session is wanted that is not there, or no scan is found.
    """
    wanted = wanted or Wanted()
    subjects = _subjects(index, wanted)
    sessions = {label(text, "ses") for text in wanted.sessions}
    by_subject: dict[str, list[BIDSFile]] = {}
    for file in index.files(subjects):
        by_subject.setdefault(file["sub"], []).append(file)
    sidecars = Sidecars(index.root)
    rows, notes = [], [*index.notes, *_unread(wanted.filters, rules)]
    participants, seen = _participants(index.root), set()
    for subject, files in sorted(by_subject.items()):
        search = _Search(index.root, sidecars, rules, wanted.filters, files)
        for scan, rule in search.scans():
            seen.add(scan["ses"])
            if sessions and scan["ses"] not in sessions:
                continue
            rows.append(search.row(scan, rule, participants.get(subject, {})))
        notes += search.unused(sessions)
    _check_found(index, rows, sessions - seen)
    return Discovery(_told_apart(rows), tuple(notes))


def _subjects(index: Index, wanted: Wanted) -> tuple[str, ...] | None:
    if not wanted.subjects:
        return None
    chosen = [label(text, "sub") for text in wanted.subjects]
    missing = sorted(set(chosen).difference(index.subjects))
    if missing:
        raise InputError(
            f"{index.root}: no participant {', '.join(missing)}; it has "
            f"{_some(list(index.subjects))}"
        )
    return tuple(chosen)


def _check_found(index: Index, rows: Sequence[ScanRow], missing: set[str]) -> None:
    if missing:
        raise InputError(f"{index.root}: no scan of session {', '.join(sorted(missing))}")
    if not rows:
        raise InputError(
            f"{index.root}: no scan is as the rules say, which are *_mrsi.nii.gz and *_svs.nii.gz "
            "in folders mrs unless you changed them; see --bids-rules and --bids-filter-file"
        )


def _told_apart(rows: Sequence[ScanRow]) -> tuple[ScanRow, ...]:
    """The rows, one for each output folder; where two scans would have one neither runs."""
    found: dict[str, ScanRow] = {}
    for row in rows:
        first = found.setdefault(row.folder, row)
        if first is not row:
            why = (
                f"{first.scan} and {row.scan} have the same output folder; take one of them away, "
                "or choose one by --bids-rules or --bids-filter-file"
            )
            found[row.folder] = replace(first, refused=why)
    return tuple(found.values())


def _unread(filters: Mapping[str, Where], rules: Rules) -> Iterator[str]:
    """Filters that are of no kind of file that is looked for."""
    suffixes = {text for rule in rules.scans for text in rule.where.get("suffix", ())}
    for kind in filters:
        if kind not in suffixes and kind not in rules.companions:
            yield f"--bids-filter-file: {kind!r} is no kind of file that is read here; passed over"


class _Search:
    """The files of one subject, searched by the rules."""

    def __init__(
        self,
        root: Path,
        sidecars: Sidecars,
        rules: Rules,
        filters: Mapping[str, Where],
        files: Sequence[BIDSFile],
    ) -> None:
        self._root, self._sidecars, self._rules = root, sidecars, rules
        self._filters, self._files = filters, files
        self._used: set[Path] = set()

    def scans(self) -> Iterator[tuple[BIDSFile, ScanRule]]:
        """The scans, each with the first rule that it is as."""
        for file in sorted(self._files, key=lambda file: str(file.path)):
            rule = next((rule for rule in self._rules.scans if fits(rule.where, file)), None)
            if rule is not None and fits(self._filters.get(file["suffix"], {}), file):
                yield file, rule

    def row(self, scan: BIDSFile, rule: ScanRule, participant: Mapping[str, str]) -> ScanRow:
        """The row of a scan, with what is wrong with it, if anything is."""
        sidecar: dict[str, Any] = {}
        files: dict[str, CompanionFiles] = {}
        stated: dict[str, dict[str, Any]] = {}
        wrong = ""
        try:
            label(scan["ses"] or "none", "ses")
            sidecar = self._sidecars.of(scan.path)
            files = dict(self._companions(scan, sidecar))
            water = files.get(WATER.name)
            stated = {"scan": acquisition_fields(sidecar)}
            if isinstance(water, str):
                stated[WATER.name] = acquisition_fields(self._sidecars.of(Path(water)))
        except InputError as error:
            wrong = str(error)
        several = isinstance(files.get(TISSUE.name), str)
        metadata = {
            **participant,
            **{name: scan[name] for name in _SHOWN if scan[name]},
        }
        return ScanRow(
            str(scan.path),
            scan["sub"],
            scan["ses"] or None,
            files,
            self._rules.tissue_classes if several else (),
            rule.basis,
            rule.pipeline,
            {name: fields for name, fields in stated.items() if fields},
            " ".join(wrong.split()),
            metadata,
        )

    def unused(self, sessions: set[str]) -> Iterator[str]:
        """References of water that no scan takes, which may be a matter of rules."""
        for file in self._files:
            here = not sessions or file["ses"] in sessions
            if file["suffix"] == "mrsref" and here and file.path not in self._used:
                yield f"{file.path}: no scan takes it; see ReferenceSignal and --bids-rules"

    def _companions(
        self, scan: BIDSFile, sidecar: Mapping[str, Any]
    ) -> Iterator[tuple[str, CompanionFiles]]:
        for name, rules in self._rules.companions.items():
            candidates = [f for f in self._files if fits(self._filters.get(name, {}), f, scan)]
            named = reference_files(sidecar, self._root) if name == WATER.name else []
            if len(named) == 1:
                yield name, self._taken(named[0])
                continue
            if named:
                candidates = [file for file in candidates if file.path in named]
            if isinstance(rules, Mapping):
                found = {key: self._best(name, own, candidates, scan) for key, own in rules.items()}
                by_class = {key: self._taken(one.path) for key, one in found.items() if one}
                if by_class:
                    yield name, by_class
            elif (file := self._best(name, rules, candidates, scan)) is not None:
                yield name, self._taken(file.path)

    def _taken(self, path: Path) -> str:
        self._used.add(path)
        return str(path)

    def _best(
        self, name: str, rules: Sequence[Where], files: Sequence[BIDSFile], scan: BIDSFile
    ) -> BIDSFile | None:
        """The file that the first of the rules finds and that shares most with the scan."""
        for rule in rules:
            alike = [
                (count, file)
                for file in files
                if file.path != scan.path
                and fits(rule, file, scan)
                and (count := shared(rule, file, scan)) is not None
            ]
            most = max((count for count, _ in alike), default=0)
            best = [file for count, file in alike if count == most]
            if len(best) > 1:
                raise InputError(
                    f"{scan.path.name}: which {name} is meant? {_some([str(f.path) for f in best])}"
                    f" suit it alike; say more in --bids-rules or --bids-filter-file"
                )
            if best:
                return best[0]
        return None


def _participants(root: Path) -> dict[str, dict[str, str]]:
    """What ``participants.tsv`` says of each subject, under names that mean no column here."""
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    text = path.read_text("utf-8-sig", errors="replace")
    table = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    return {
        str(line["participant_id"]).removeprefix("sub-"): {
            f"participant_{name}" if column_meant(name) else name: value
            for name, value in line.items()
            if name not in (None, "", "participant_id") and value not in (None, "", NOTHING)
        }
        for line in table
        if line.get("participant_id")
    }


def _some(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
