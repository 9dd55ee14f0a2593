"""What water-referenced concentrations rest on beside the data, and how it enters."""

from __future__ import annotations

import math
import tomllib
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import nucleus

_SHIPPED = resources.files("mrsi_engine.spectra") / "relaxation.toml"

#: The row of :attr:`RelaxationTable.metabolites` for those without a row of their own.
DEFAULT = "default"

_Seconds = Annotated[float, Field(gt=0, le=100)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Relaxation(_Row):
    """``t1`` and ``t2`` in s."""

    t1: _Seconds
    t2: _Seconds

    def attenuation(self, echo_time: float, repetition_time: float, flip_angle: float) -> float:
        """What is left of the signal of a fully relaxed 90 degree pulse at the start of the echo.

        Spoiled steady state (Ernst & Anderson, Rev Sci Instrum 1966;37:93) and mono-exponential
        decay over the echo time.

        Parameters
        ----------
        echo_time, repetition_time
            In s.
        flip_angle
            In degrees.
        """
        angle, recovery = math.radians(flip_angle), math.exp(-repetition_time / self.t1)
        steady = math.sin(angle) * (1 - recovery) / (1 - math.cos(angle) * recovery)
        return steady * math.exp(-echo_time / self.t2)


class Compartment(Relaxation):
    """A tissue: ``content`` is kg of water a litre, ``metabolites`` whether it holds any."""

    content: Annotated[float, Field(gt=0, le=1)]
    metabolites: bool = True


class RelaxationTable(_Row):
    """Relaxation times, water content and protons, for one range of field strengths.

    Parameters
    ----------
    nucleus
        Of the metabolites.
    spectrometer_frequency
        Lowest and highest for which the times hold, MHz.
    water_molality
        Of pure water, mol/kg.
    water_protons
        Per molecule.
    water
        By tissue class.
    metabolites
        By label; ``default`` for those without a row.
    sources
        Where the numbers come from.
    """

    name: str
    nucleus: str = "1H"
    spectrometer_frequency: tuple[float, float]
    water_molality: Annotated[float, Field(gt=0)] = 55.51
    water_protons: Annotated[float, Field(gt=0)] = 2.0
    water: dict[str, Compartment]
    metabolites: dict[str, Relaxation]
    sources: dict[str, str]

    def row(self, label: str) -> Relaxation:
        """Times of a metabolite or a sum; those of its parts for a sum without a row.

        Raises
        ------
        InputError
            If there is no row, or the parts of a sum without one differ.
        """
        if label in self.metabolites:
            return self.metabolites[label]
        sums = nucleus(self.nucleus).sums
        members = next((c.members for c in sums if c.label == label), ())
        rows = {self.row(member) for member in members}
        if len(rows) == 1:
            return rows.pop()
        if rows:
            raise InputError(
                f"relaxation table {self.name!r}: {' and '.join(members)} have different times, so "
                f"their sum needs its own: add a row {label} = {{ t1 = ..., t2 = ... }}"
            )
        if DEFAULT not in self.metabolites:
            raise InputError(
                f"relaxation table {self.name!r}: no row for {label} and no row {DEFAULT!r}; it "
                f"has {', '.join(self.metabolites)}"
            )
        return self.metabolites[DEFAULT]

    def check_field(self, spectrometer_frequency: float) -> None:
        """Refuse a scan at another field.

        Raises
        ------
        InputError
            If the frequency (MHz) is outside the table's range.
        """
        low, high = self.spectrometer_frequency
        if not low <= spectrometer_frequency <= high:
            raise InputError(
                f"relaxation table {self.name!r} holds for {low:g} to {high:g} MHz, the scan has "
                f"{spectrometer_frequency:g} MHz; give a table for that field with table = FILE "
                "(the form is that of mrsi_engine/spectra/relaxation.toml)"
            )


@lru_cache(maxsize=1)
def shipped_table() -> RelaxationTable:
    """The human brain at 3 T."""
    return RelaxationTable.model_validate(tomllib.loads(_SHIPPED.read_text(encoding="utf-8")))


def _loaded(value: Any) -> Any:
    if not isinstance(value, str | Path):
        return value
    path = Path(value)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return RelaxationTable.model_validate(content)
    except OSError as error:
        raise ValueError(f"table: {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"table: {path} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"table: {path}: {where}: {first['msg']}") from error


#: A setting that names a file of one's own; its content becomes part of the settings, so that a
#: run is known by the numbers and not by where they lay.
TableSetting = Annotated[RelaxationTable, BeforeValidator(_loaded)]
