"""What may come with a scan beside its signals: a row each, and all the rest follows from it.

A row says by which option and keyword its files are given, what they are, how they come onto the
scan's grid and what stands where they do not reach. Command line, import, stores, blocks and the
lazy API go by the table, so that a new companion is one row and the stage that reads
``block.companions[NAME]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from mrsi_engine.errors import InputError

#: What a companion is read from: a file, or one a class.
CompanionFiles = str | Path | Mapping[str, str | Path]


class Kind(StrEnum):
    """What the files of a companion are, and what becomes of them in a store."""

    #: A mask of the voxels to keep; it is not stored itself.
    SELECTION = "selection"
    #: NIfTI-MRS, ``(voxel, [coil,] [dynamic,] time)`` complex64.
    SIGNAL = "signal"
    #: A mask, ``(voxel,)`` bool; its voxels outside the selection are kept and never quantified.
    MARKS = "marks"
    #: Fractions of 0 to 1, one 4-D file or a file a class, ``(voxel, class)`` float32.
    FRACTIONS = "fractions"
    #: A number a voxel, ``(voxel,)`` float32.
    MAP = "map"


@dataclass(frozen=True)
class Companion:
    """A row of the table.

    Parameters
    ----------
    name
        In stores, blocks and contexts, and of option and keyword.
    kind
        What its files are.
    help
        Of the command line's option.
    units
        Of its values.
    fill
        Where files do not reach; those of signals are zeros.
    classes
        Options of files that are given a class each, and their help.
    """

    name: str
    kind: Kind
    help: str
    units: str = "1"
    fill: float = float("nan")
    classes: Mapping[str, str] = field(default_factory=dict)

    @property
    def stored(self) -> bool:
        """Whether a store holds it as a variable."""
        return self.kind is not Kind.SELECTION

    @property
    def resampled(self) -> bool:
        """Whether files on another grid are brought onto the scan's; masks must lie on it."""
        return self.kind in (Kind.SIGNAL, Kind.FRACTIONS, Kind.MAP)

    @property
    def class_dimension(self) -> str:
        """Name of the dimension of its classes, and of the variable that names them."""
        return f"{self.name}_class"


_TABLE: dict[str, Companion] = {}


def register(row: Companion) -> Companion:
    """Add a row, e.g. that of a package with stages of its own.

    Raises
    ------
    ValueError
        If there is another row of that name.
    """
    if _TABLE.setdefault(row.name, row) != row:
        raise ValueError(f"there is another companion {row.name!r}")
    return row


def unregister(name: str) -> None:
    """Take a row that was registered away again."""
    _TABLE.pop(name, None)


def companions(*kinds: Kind) -> tuple[Companion, ...]:
    """The rows, of some kinds or all, in the order they were added."""
    return tuple(row for row in _TABLE.values() if not kinds or row.kind in kinds)


def companion(name: str) -> Companion:
    """The row of a name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in _TABLE:
        raise InputError(
            f"{name}: nothing that may come with a scan; there are {', '.join(_TABLE)}"
        )
    return _TABLE[name]


MASK = register(
    Companion(
        "mask",
        Kind.SELECTION,
        "NIfTI volume, above zero where to quantify; without one it is made from signal energy.",
    )
)
WATER = register(
    Companion(
        "water",
        Kind.SIGNAL,
        "Unsuppressed water reference, NIfTI-MRS. One on another grid is resampled.",
        units="as in the file",
        fill=0.0,
    )
)
TISSUE = register(
    Companion(
        "tissue",
        Kind.FRACTIONS,
        "4-D NIfTI of tissue fractions; name its classes with --tissue-classes.",
        units="fraction",
        classes={
            "gm": "Fraction map of grey matter; with --wm and --csf instead of --tissue.",
            "wm": "Fraction map of white matter.",
            "csf": "Fraction map of cerebrospinal fluid.",
        },
    )
)
SCALP = register(
    Companion(
        "scalp",
        Kind.MARKS,
        "Mask of the scalp: its voxels outside --mask show stages what lipids look like.",
        fill=0.0,
    )
)
