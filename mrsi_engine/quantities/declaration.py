"""All that a stage or a pipeline writes, and that no two of it share a name, a map or a column."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mrsi_engine.errors import InputError
from mrsi_engine.quantities.quantity import (
    MAPS_OF_EVERY_RESULT,
    MEASURES,
    PARAMETERS,
    RESIDUAL,
    TOTALS,
    Quantity,
    Role,
)

_COLUMNS_OF_EVERY_RESULT = ("x", "y", "z", "x_mm", "y_mm", "z_mm", "status", "flags")


@dataclass(frozen=True)
class Declaration:
    """Everything a stage, or a whole pipeline, writes.

    ``parameters`` have an estimate and an SD, ``measures`` are single numbers; both are
    ``(voxel,)`` each. ``signals`` are ``(voxel, time)`` and stored only on request.

    Raises
    ------
    InputError
        If a quantity stands among those of another kind.
    """

    parameters: tuple[Quantity, ...] = ()
    measures: tuple[Quantity, ...] = ()
    signals: tuple[Quantity, ...] = ()

    def __post_init__(self) -> None:
        allowed = {"parameters": PARAMETERS, "measures": MEASURES, "signals": (Role.SIGNAL,)}
        for kind, roles in allowed.items():
            for q in getattr(self, kind):
                if q.role not in roles:
                    raise InputError(
                        f"quantity {q.name!r}: a {q.role} cannot be one of the {kind}, which are "
                        f"{', '.join(roles)}"
                    )

    def __add__(self, other: Declaration) -> Declaration:
        """Both declarations, in order."""
        return Declaration(
            self.parameters + other.parameters,
            self.measures + other.measures,
            self.signals + other.signals,
        )

    def of_stage(self, stage: str) -> Declaration:
        """The same, each quantity with the stage that writes it."""
        kinds = (self.parameters, self.measures, self.signals)
        return Declaration(*(tuple(replace(q, stage=stage) for q in kind) for kind in kinds))

    def check(self) -> Declaration:
        """This declaration, once no two quantities share a name, a map or a column.

        Raises
        ------
        InputError
            If two do: names both, and the stages that write them.
        """
        numbers = (*self.parameters, *self.measures)
        _check_differ("name", [(q, (q.name,)) for q in numbers])
        _check_differ("name", [(q, (q.name,)) for q in self.signals])
        _check_differ("map", [(q, q.maps) for q in (*numbers, *self.signals)], _MAPS_TAKEN)
        _check_differ("column", [(q, q.columns) for q in numbers], _COLUMNS_TAKEN)
        return self


_MAPS_TAKEN = tuple(f"desc-{d}" for d in (*MAPS_OF_EVERY_RESULT, *TOTALS, RESIDUAL))
_COLUMNS_TAKEN = (
    *_COLUMNS_OF_EVERY_RESULT,
    *(f"{t.column}{end}" for t in TOTALS.values() if t.column for end in ("", "_sd")),
)


def _check_differ(
    what: str, named: Sequence[tuple[Quantity, tuple[str, ...]]], taken: tuple[str, ...] = ()
) -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for name in taken:
        owners[name].append("what every result has")
    for quantity, names in named:
        for name in names:
            owners[name].append(f"{quantity.name!r} of stage {quantity.stage or 'unknown'!r}")
    for name, several in owners.items():
        if len(several) > 1 and len(set(several)) == 1:
            raise InputError(
                f"the {what} {name!r} would be that of {several[0]} twice: let that stage stand "
                "once in the pipeline"
            )
        if len(several) > 1:
            raise InputError(
                f"the {what} {name!r} would be that of {' and of '.join(several)}; declare one of "
                "them with another name or label"
            )
