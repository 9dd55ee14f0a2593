"""Profiles: TOML files that say which cluster class of Dask's opens a cluster, and with what.

The shipped ones lie in ``profiles/`` beside this module; a file there adds a kind of cluster. Keys
of ``[cluster]`` are those of the class, so what its own documentation says holds here.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic import model_validator as validator

from mrsi_engine.engine.clusters.certificates import TLSFiles
from mrsi_engine.errors import InputError
from mrsi_engine.input_files import read_input_text

_SHIPPED = resources.files("mrsi_engine.engine.clusters") / "profiles"
_SUFFIX = ".toml"

#: What Dask can talk over to a scheduler elsewhere.
_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx|ucxx)://.+")

#: ``package.Class``.
_DottedName = Annotated[str, StringConstraints(pattern=r"^\w+(\.\w+)+$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Adapt(_Table):
    """Between how many workers a cluster is kept: keys of ``adapt`` of Dask's cluster classes."""

    minimum: int = Field(default=1, ge=1)
    maximum: int = Field(ge=1)
    interval: str | None = None
    wait_count: int | None = Field(default=None, ge=1)
    target_duration: str | None = None

    @validator(mode="after")
    def _in_order(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum is {self.minimum}, more than maximum, {self.maximum}")
        return self


class _Certificates(_Table):
    """PEM files for the address of a scheduler, by paths from where the profile lies."""

    ca: Path
    cert: Path
    key: Path

    def files(self, folder: Path) -> TLSFiles:
        return TLSFiles(folder / self.ca, folder / self.cert, folder / self.key)


class _Content(_Table):
    """What a profile file may hold."""

    kind: _DottedName | None = Field(default=None, alias="class")
    extra: str | None = None
    needs: str | None = None
    address: Annotated[str, StringConstraints(pattern=_ADDRESS)] | None = None
    tls: _Certificates | None = None
    secure: bool = True
    cluster: dict[str, Any] = {}
    adapt: Adapt | None = None

    @validator(mode="after")
    def _one_way(self) -> Self:
        if (self.kind is None) == (self.address is None):
            raise ValueError("give class, a cluster class of Dask's, or address, and not both")
        if self.address is not None and (self.cluster or self.adapt):
            raise ValueError("cluster and adapt go with class: what is at an address is there")
        if self.address is None and self.tls is not None:
            raise ValueError("tls goes with address: other clusters make their own certificates")
        return self


@dataclass(frozen=True)
class Profile:
    """How a cluster is opened.

    Parameters
    ----------
    name
        By which the user chose it: a shipped profile, a file or an address.
    kind
        Cluster class, ``package.Class``; none for a scheduler that is there already, ...
    address
        ... which has this address, ...
    tls
        ... and these certificates, if it asks for any.
    extra
        Extra of this package that brings the class, ...
    needs
        ... or another package that it needs and no extra brings.
    arguments
        Keywords of the class.
    adapt
        Between how many workers it is kept; a fixed number if not given.
    secure
        Whether a cluster that we start is closed to those without its certificates.
    """

    name: str
    kind: str | None = None
    address: str | None = None
    tls: TLSFiles | None = None
    extra: str | None = None
    needs: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    adapt: Adapt | None = None
    secure: bool = True

    @property
    def here(self) -> bool:
        """Whether its workers are on this machine."""
        return self.kind in ("distributed.LocalCluster", "dask_cuda.LocalCUDACluster")


def is_address(text: str) -> bool:
    """Whether a text is the address of a scheduler, such as ``tcp://node1:8786``."""
    return _ADDRESS.fullmatch(text) is not None


@cache
def profile_names() -> tuple[str, ...]:
    """Names of the shipped profiles."""
    names = (entry.name for entry in _SHIPPED.iterdir())
    return tuple(sorted(n.removesuffix(_SUFFIX) for n in names if n.endswith(_SUFFIX)))


def profile_text(name: str) -> str:
    """A shipped profile as it is written, to copy and change.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    if name not in profile_names():
        raise InputError(f"no cluster profile {name!r}; there are {', '.join(profile_names())}")
    return (_SHIPPED / (name + _SUFFIX)).read_text(encoding="utf-8")


def summary_of(name: str) -> str:
    """The first line of a shipped profile: what it is for."""
    return profile_text(name).splitlines()[0].removeprefix("# ")


def load_profile(cluster: str, tls: TLSFiles | None = None) -> Profile:
    """The profile of a name, of a TOML file, or of a scheduler at an address.

    Raises
    ------
    InputError
        If there is none, or it holds what no profile holds; the message names the key.
    """
    if is_address(cluster):
        return Profile(cluster, address=cluster, tls=tls)
    if cluster in profile_names():
        return _parsed(cluster, profile_text(cluster), Path(), tls)
    if not cluster.endswith(_SUFFIX):
        raise InputError(
            f"cluster is {cluster!r}, expected {', '.join(profile_names())}, the address of a "
            "scheduler such as tcp://node1:8786, or a TOML file; mrsi cluster show NAME prints one "
            "to begin with"
        )
    path = Path(cluster)
    if not path.exists():
        raise InputError(f"{cluster}: no such cluster profile")
    return _parsed(cluster, read_input_text(path), path.parent, tls)


def _parsed(name: str, text: str, folder: Path, tls: TLSFiles | None) -> Profile:
    try:
        content = _Content.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not a TOML file ({error})") from error
    except ValidationError as error:
        raise InputError("\n".join(f"{name}: {_told(one)}" for one in error.errors())) from error
    files = content.tls.files(folder) if content.tls else None
    return Profile(
        name,
        kind=content.kind,
        address=content.address,
        tls=tls or files,
        extra=content.extra,
        needs=content.needs,
        arguments=content.cluster,
        adapt=content.adapt,
        secure=content.secure,
    )


def _told(error: Any) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}; keys of the cluster class belong under [cluster]"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message
