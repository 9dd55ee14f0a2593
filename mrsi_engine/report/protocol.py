"""How a scan was acquired, in words: scans of one protocol have the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrsi_engine.conventions import Acquisition
from mrsi_engine.nuclei import nucleus

#: Fields of the header extension that name a pulse sequence, the first that is there counts.
_SEQUENCE = ("SequenceName", "PulseSequenceType")


def sequence_of(header: Mapping[str, Any]) -> str:
    """The pulse sequence as a header extension or sidecar names it; empty if it does not."""
    found = (header.get(field) for field in _SEQUENCE)
    return next((word.strip() for word in found if isinstance(word, str) and word.strip()), "")


def protocol_of(acquisition: Acquisition, sequence: str = "") -> str:
    """Nucleus, field, sequence and timing in words: ``"1H 3 T press TE 30 ms TR 1500 ms"``.

    The field is rounded to 0.1 T, times to 0.1 ms: scanners of one kind differ by less.
    """
    field = nucleus(acquisition.nucleus).field(acquisition.spectrometer_frequency)
    words = [acquisition.nucleus, f"{round(field, 1):g} T", *([sequence] if sequence else [])]
    times = {"TE": acquisition.echo_time, "TR": acquisition.repetition_time}
    words += [f"{name} {round(1e3 * t, 1):g} ms" for name, t in times.items() if t is not None]
    return " ".join(words)
