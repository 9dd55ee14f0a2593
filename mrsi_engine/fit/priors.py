"""Tables of Gaussian priors on amplitudes and ratios, as TOML files."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mrsi_engine.errors import InputError
from mrsi_engine.kernels.priors import Priors
from mrsi_engine.nuclei import Nucleus
from mrsi_engine.spectra.basis import Basis

#: The table named ``"default"``.
SHIPPED = resources.files("mrsi_engine") / "spectra" / "priors.toml"


def _weights(value: Any) -> Any:
    """A metabolite or a sum by name as weights."""
    return {value: 1.0} if isinstance(value, str) else value


class AmplitudePrior(BaseModel):
    """What one amplitude is before the data are seen.

    Parameters
    ----------
    of
        The metabolite.
    mean, sd
        Of its amplitude in data units or, with ``to``, of its ratio.
    to
        What it is divided by: a metabolite, a sum such as ``"tCr"``, or weights of several.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    of: str
    mean: float
    sd: float = Field(gt=0)
    to: Annotated[dict[str, float] | None, BeforeValidator(_weights)] = Field(
        default=None, min_length=1
    )

    def of_nucleus(self, nucleus: Nucleus) -> AmplitudePrior:
        """The prior with the canonical names of a nucleus, sums by their members."""
        to = (
            None
            if self.to is None
            else {
                member: weight
                for name, weight in self.to.items()
                for member in nucleus.members_of(name)
            }
        )
        return self.model_copy(update={"of": nucleus.canonical_name(self.of), "to": to})

    def applies(self, basis: Basis) -> bool:
        """Whether the basis has the metabolite and something to divide it by."""
        others = set(self.to or {}) - {self.of}
        return self.of in basis.names and (not others or bool(others & set(basis.names)))


class PriorTable(BaseModel):
    """Priors of a fit: ``[[prior]]`` tables with ``of``, ``mean``, ``sd`` and, for a ratio, ``to``.

    A name that the basis does not have is refused; with ``optional = true`` its prior is passed
    over, and a sum to divide by is that of the members the basis has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prior: tuple[AmplitudePrior, ...] = Field(min_length=1)
    optional: bool = False

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if repeated := _repeated(self.prior):
            raise ValueError(f"more than one prior of {repeated}; give each metabolite one")
        return self

    @classmethod
    def load(cls, file: str) -> PriorTable:
        """From a TOML file.

        Raises
        ------
        ValueError
            If there is no such file, it is not TOML or a prior is wrong: names what.
        """
        path = Path(file)
        if not path.is_file():
            raise ValueError(f'{file}: no such file of priors; give a TOML file or "default"')
        return cls._parsed(path.read_text(encoding="utf-8"), file)

    @classmethod
    @cache
    def default(cls) -> PriorTable:
        """The shipped table."""
        return cls._parsed(SHIPPED.read_text(encoding="utf-8"), str(SHIPPED))

    @classmethod
    def _parsed(cls, text: str, source: str) -> PriorTable:
        try:
            return cls.model_validate(tomllib.loads(text))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ValueError(f"{source}: not valid TOML: {error}") from error
        except ValidationError as error:
            raise ValueError(f"{source}: {_explained(error)}") from error

    def constrained(self, basis: Basis) -> tuple[str, ...]:
        """Metabolites of the basis that have a prior.

        Raises
        ------
        InputError
            If a prior names what the basis does not have, or none is left.
        """
        return tuple(p.of for p in self._applicable(basis))

    def on(self, basis: Basis) -> Priors:
        """The priors on the amplitudes of a fitted basis."""
        chosen = self._applicable(basis)
        reference = torch.zeros((len(chosen), len(basis.names)), dtype=torch.float64)
        rows = torch.zeros_like(reference)
        for i, prior in enumerate(chosen):
            rows[i, basis.names.index(prior.of)] = 1.0
            for name, weight in (prior.to or {}).items():
                if name in basis.names:
                    reference[i, basis.names.index(name)] = weight
        is_ratio = torch.tensor([p.to is not None for p in chosen])
        mean = torch.tensor([p.mean for p in chosen], dtype=torch.float64)
        sd = torch.tensor([p.sd for p in chosen], dtype=torch.float64)
        return Priors(
            rows - mean[:, None] * reference, torch.where(is_ratio, 0.0, mean), sd, reference
        )

    def _applicable(self, basis: Basis) -> list[AmplitudePrior]:
        named = [p.of_nucleus(basis.nucleus) for p in self.prior]
        if repeated := _repeated(named):
            raise InputError(
                f"stage 'quantify': more than one prior of {repeated}; give each metabolite one"
            )
        wanted = {name for p in named for name in (p.of, *(p.to or {}))}
        unknown = sorted(wanted - set(basis.names))
        if unknown and not self.optional:
            raise InputError(
                f"stage 'quantify': priors name {unknown}, which are not fitted; the basis has "
                f"{list(basis.names)}. Take them out, or set optional = true in the table"
            )
        found = [p for p in named if p.applies(basis)]
        if not found:
            raise InputError(
                "stage 'quantify': amplitudes = \"map\", but the table has no prior on anything in "
                f"the basis ({list(basis.names)}); give a table that has, or fit them free"
            )
        return found


def _repeated(priors: Sequence[AmplitudePrior]) -> list[str]:
    names = [prior.of for prior in priors]
    return sorted({name for name in names if names.count(name) > 1})


def _explained(error: ValidationError) -> str:
    parts = []
    for e in error.errors():
        key = ".".join(str(part) for part in e["loc"])
        found = f", found {e['input']!r}" if isinstance(e["input"], str | int | float) else ""
        parts.append(f"{key}: {e['msg'].removeprefix('Value error, ')}{found}".removeprefix(": "))
    return "; ".join(parts)
