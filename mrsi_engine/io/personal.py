"""What of a header says who was scanned, and on which machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
    r"|.*(operator|physician)s?_?.*name.*|accession_?number|.*instance_?uid|.*file_?(name|path)s?",
    re.IGNORECASE,
)


def without_personal(header: Mapping[str, Any]) -> dict[str, Any]:
    """A header extension without what is personal, at any depth."""
    return {name: _without(value) for name, value in header.items() if not is_personal(name)}


def personal_fields(header: Mapping[str, Any]) -> list[str]:
    """Names of the fields of a header extension that are personal, ascending."""
    return sorted(name for name in header if is_personal(name))


def is_personal(name: str) -> bool:
    """Whether a field of the header extension is personal."""
    return name in MARKED or _PRIVATE.fullmatch(name) is not None


def _without(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_personal(value)
    if isinstance(value, list):
        return [_without(entry) for entry in value]
    return value
