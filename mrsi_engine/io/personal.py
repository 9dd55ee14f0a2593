"""What of a header says who was scanned, and on which machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: Fields that the NIfTI-MRS standard (0.11) marks for removal when a file is made anonymous.
MARKED = frozenset(
    {
        "DeviceSerialNumber",
        "ManufacturersModelName",
        "OriginalFile",
        "PatientDoB",
        "PatientID",
        "PatientName",
    }
)

#: Fields of one's own: those the standard calls private by their prefix, and the names that DICOM
#: and vendors have for the same things.
_PRIVATE = re.compile(
    r"private_.*|(patients?|subjects?)_?(names?|id|dob|birth.*|address|phone.*|initials)"
    r"|other_?patient.*|.*birth_?(date|day|name|time)|.*serial_?(number|no)"
    r"|.*(operator|physician|station)s?_?.*name.*|accession_?number|.*instance_?uid|.*file_?(name|path)s?",
    re.IGNORECASE,
)


#: A path from the root of a file system, of three parts and more: it names users and machines.
_PATH = re.compile(r"""(?<![\w:/.])(/[^\s/"',;]+){3,}|\b[A-Za-z]:(\\[^\s\\"',;]+){2,}""")

#: A path or an address, whatever its length.
_FOLDERS = re.compile(
    r"""(?<![\w:/.])(?:/[^\s/"',;]+){2,}|\b[A-Za-z]:(?:\\[^\s\\"',;]+)+|\b\w+://[^\s"',;]+"""
)

#: Fewest letters and digits of a word of a personal field that is looked for in the other fields,
#: and fields whose words are: models of machines and moments are no secret elsewhere.
_LEAST_LETTERS = 4
_WHO = re.compile(r".*(name|id|dob|birth.*|serial.*|accession.*)", re.IGNORECASE)
_HIDDEN = "[removed]"

#: Texts that the numbers go by.
_MEANT = re.compile(r"SequenceName|ResonantNucleus|dim_\d")

#: Words that stand in place of a name, and ones that would take apart what others say.
_ORDINARY = frozenset({"anon", "anonymous", "anonymized", "anonymised", "none", "unknown", "test"})


def without_personal(header: Mapping[str, Any]) -> dict[str, Any]:
    """A header extension without what is personal, at any depth.

    What stands in personal fields (names, numbers) goes from the texts of the others, too, and
    paths from the root of a file system do.
    """
    words = sorted(set(_words(header)), key=lambda word: (-len(word), word))
    secret = "|".join(re.escape(word) for word in words)
    hidden = re.compile(rf"(?<![^\W_])(?:{secret})(?![^\W_])", re.IGNORECASE) if words else None
    kept = {name: value for name, value in header.items() if not is_personal(name)}
    return {n: v if _MEANT.fullmatch(n) else _without(v, hidden) for n, v in kept.items()}


def personal_fields(header: Mapping[str, Any]) -> list[str]:
    """Names of the fields of a header extension that are personal, ascending."""
    return sorted(name for name in header if is_personal(name))


def without_folders(text: str) -> str:
    """A text in which paths and addresses are the names of their files; best without spaces."""
    return _FOLDERS.sub(lambda found: re.split(r"[/\\]", found.group())[-1], text)


def is_personal(name: str) -> bool:
    """Whether a field of the header extension is personal."""
    return name in MARKED or _PRIVATE.fullmatch(name) is not None


def _words(entry: Any, inside: bool = False) -> Iterator[str]:
    """Words of fields that say who and on which machine."""
    if isinstance(entry, Mapping):
        for name, value in entry.items():
            who = is_personal(name) and name != "ManufacturersModelName"
            yield from _words(value, inside or (who and _WHO.fullmatch(name) is not None))
    elif isinstance(entry, list):
        for value in entry:
            yield from _words(value, inside)
    elif inside and isinstance(entry, str | int):
        found = (w for w in re.split(r"[^\w-]+|_", str(entry)) if len(w) >= _LEAST_LETTERS)
        yield from (word for word in found if word.lower() not in _ORDINARY)


def _without(value: Any, hidden: re.Pattern[str] | None) -> Any:
    if isinstance(value, Mapping):
        return {n: _without(entry, hidden) for n, entry in value.items() if not is_personal(n)}
    if isinstance(value, list):
        return [_without(entry, hidden) for entry in value]
    if isinstance(value, str):
        text = _PATH.sub(_HIDDEN, value)
        return text if hidden is None else hidden.sub(_HIDDEN, text)
    return value
