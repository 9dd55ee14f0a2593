"""Rules by which files of a BIDS dataset are scans or come with one: data, read from TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import bids2table
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mrsi_engine.bids.index import RAW, BIDSFile
from mrsi_engine.companions import companion
from mrsi_engine.errors import InputError
from mrsi_engine.input_files import read_input_text

#: What entities must be: a text or several that will do.
Where = dict[str, tuple[str, ...]]

#: Signs in a rule: an entity that is absent, that is there, that is the scan's.
ABSENT, ANY, SAME = "", "*", "="

_NUMBERS = ("run", "echo", "inv", "flip", "split", "chunk")

#: Entities that say what a file is, not of which acquisition.
_OF_THE_FILE = ("dataset", "datatype", "suffix", "ext", "desc", "space", "res", "label")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScanRule(_Table):
    """Files that are scans, and the basis and pipeline of these if they have their own.

    Those of the dataset itself unless ``where`` names another: maps of derivatives end alike.
    """

    where: Where
    basis: str | None = None
    pipeline: str | None = None

    @field_validator("where", mode="before")
    @classmethod
    def _spelled(cls, value: Any) -> Where:
        return {"dataset": (RAW,), **where(value)}


class Rules(_Table):
    """Which files are scans, and which come with them.

    ``companions`` has a list of rules for each, or one a class; ``tissue_classes`` says what the
    last dimension of a 4-D tissue file holds.
    """

    scans: tuple[ScanRule, ...]
    companions: dict[str, tuple[Where, ...] | dict[str, tuple[Where, ...]]]
    tissue_classes: tuple[str, ...] = ()

    @field_validator("companions", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError("expected a table of companions")
        return {_companion(name): _listed(rules) for name, rules in value.items()}

    def with_changes(self, changes: Mapping[str, Any], source: str) -> Rules:
        """These rules, with what a file states in place of theirs.

        Raises
        ------
        InputError
            If it is no table of rules: names the key.
        """
        own = self.model_dump()
        beside = changes.get("companions", {})
        if isinstance(beside, Mapping):
            changes = {**changes, "companions": {**own["companions"], **beside}}
        try:
            return Rules.model_validate({**own, **changes})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise InputError(f"{source}: rules of BIDS: {key}: {first['msg']}") from error


@cache
def default_rules() -> Rules:
    """Those that ship with the package."""
    text = (resources.files("mrsi_engine.bids") / "rules.toml").read_text("utf-8")
    return Rules.model_validate(tomllib.loads(text))


def read_rules(path: Path) -> dict[str, Any]:
    """The table of a file of rules, for :meth:`Rules.with_changes`.

    Raises
    ------
    InputError
        If the file cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(read_input_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error


def where(conditions: Any) -> Where:
    """Conditions in one spelling: short names of entities, lists of texts.

    Those of ``--bids-filter-file`` are taken, too: long names, numbers, ``null`` and
    ``Query.NONE`` for an entity that is absent, ``Query.ANY`` for one that is there.

    Raises
    ------
    ValueError
        If they are no table.
    """
    if not isinstance(conditions, Mapping):
        raise ValueError(f"{conditions!r}: expected a table of entities, e.g. {{ acq = 'conc' }}")
    found: Where = {}
    for name, wanted in conditions.items():
        entity = _short_names().get(str(name), str(name))
        texts = wanted if isinstance(wanted, list | tuple) else [wanted]
        found[entity] = tuple(_spelled(entity, text) for text in texts)
    return found


def read_filters(path: Path) -> dict[str, Where]:
    """A ``--bids-filter-file``: JSON of entities by kind of file.

    Raises
    ------
    InputError
        If it cannot be read or is no such JSON.
    """
    text = read_input_text(path)
    try:
        content = json.loads(text)
        return {str(kind): where(conditions) for kind, conditions in content.items()}
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: {error}: expected JSON of entities by kind of file, e.g. "
            '{"mrsi": {"acquisition": "slaser"}, "mask": {"desc": "brain"}}'
        ) from error


def fits(conditions: Where, file: BIDSFile, scan: BIDSFile | None = None) -> bool:
    """Whether a file is as the conditions say."""
    return all(
        any(_fits(file[entity], text, scan[entity] if scan else "") for text in texts)
        for entity, texts in conditions.items()
    )


def shared(conditions: Where, file: BIDSFile, scan: BIDSFile) -> int | None:
    """How many entities a file shares with a scan; ``None`` if it contradicts one.

    Entities that the conditions name do not count, nor, of files of anatomy, any but subject and
    session.
    """
    entities = set(file.entities).intersection(scan.entities).difference(_OF_THE_FILE, conditions)
    if file["datatype"] != scan["datatype"]:
        entities &= {"sub", "ses"}
    same = [file[entity] == scan[entity] for entity in entities | {"sub"}]
    return len(same) if all(same) else None


def _fits(found: str, wanted: str, scan: str) -> bool:
    return bool(found) if wanted == ANY else found == (scan if wanted == SAME else wanted)


def _listed(rules: Any) -> Any:
    if isinstance(rules, Mapping):
        return {name: _listed(own) for name, own in rules.items()}
    if not isinstance(rules, list | tuple):
        raise ValueError(f"{rules!r}: expected a list of rules, or one a class")
    return tuple(where(rule) for rule in rules)


def _companion(name: str) -> str:
    try:
        return companion(name).name
    except InputError as error:
        raise ValueError(str(error)) from error


def _spelled(entity: str, text: Any) -> str:
    special = {"Query.NONE": ABSENT, "Query.ANY": ANY, "None": ABSENT}
    plain = special.get(str(text), str(text)).removeprefix(f"{entity}-")
    return plain.lstrip("0") or plain if entity in _NUMBERS else plain


@cache
def _short_names() -> dict[str, str]:
    """BIDS' long names of entities, as filter files have them, by the short ones."""
    return dict(_names())


def _names() -> Iterator[tuple[str, str]]:
    for column in bids2table.get_arrow_schema():
        long = (column.metadata or {}).get(b"entity")
        if long is not None:
            yield long.decode(), column.name
