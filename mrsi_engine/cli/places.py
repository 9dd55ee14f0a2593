"""Paths on the command line: addresses of object stores where those can be, else local ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token


class _Unchecked:
    """For pydantic, which cyclopts asks: a place on an object store is no ``pathlib.Path``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core.core_schema import any_schema

        return any_schema()


def _place(_: Any, tokens: Sequence[Token]) -> Path:
    from mrsi_engine.io.places import place

    return place(tokens[0].value)


def _local_place(_: Any, tokens: Sequence[Token]) -> Path:
    from mrsi_engine.io.places import local_place

    return local_place(tokens[0].value)


#: A local path or the address of an object store. ``Path`` would make ``s3:/`` of ``s3://``.
Place = Annotated[Path, Parameter(converter=_place), _Unchecked()]

#: A path that cannot be on an object store.
LocalPlace = Annotated[Path, Parameter(converter=_local_place)]
