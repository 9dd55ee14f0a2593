"""Settings in words, for ``mrsi stage show`` and the reference page of the docs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mrsi_engine.pipeline.settings import Settings, group_of

_WORDS = {bool: "true or false", int: "integer", float: "number", str: "text"}
_LIMITS = {Gt: ("gt", "> "), Ge: ("ge", "≥ "), Lt: ("lt", "< "), Le: ("le", "≤ ")}


@dataclass(frozen=True)
class Described:
    """A setting in words: its key in a file, with that of its table, and what a reader asks.

    ``default`` is as a file would have it; empty where nothing is given, ``None`` where something
    has to be.
    """

    key: str
    type: str
    default: str | None
    unit: str
    range: str
    description: str


def described(kind: type[Settings], table: str = "") -> list[Described]:
    """All settings of a stage, those of its tables as ``table.key``."""
    return list(_described(kind, table))


def _described(kind: type[Settings], table: str) -> Iterator[Described]:
    for name, field in kind.model_fields.items():
        group = group_of(field.annotation)
        if group is not None:
            yield from _described(group, f"{table}{name}.")
            continue
        extra = field.json_schema_extra
        unit = str(extra.get("unit", "")) if isinstance(extra, dict) else ""
        yield Described(
            f"{table}{name}",
            _type(field.annotation),
            _default(field),
            unit,
            _range(field.annotation, field.metadata),
            field.description or "",
        )


def first_paragraph(kind: type[Settings]) -> str:
    """What a stage does, in one paragraph."""
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _default(field: FieldInfo) -> str | None:
    if field.default is PydanticUndefined:
        return None
    # A word, a switch, a number or a list of them is written alike in JSON and in TOML.
    return "" if field.default is None else json.dumps(field.default, ensure_ascii=False)


def _type(annotation: Any) -> str:
    parts = [part for part in _alternatives(annotation) if part is not NoneType]
    return " or ".join(dict.fromkeys(_one_type(_bare(part)) for part in parts))


def _one_type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "false" if arguments == (False,) else "word"
    if origin is tuple and arguments[-1:] == (Ellipsis,):
        return f"list of {_type(arguments[0])}s"
    if origin is tuple:
        return f"list of {len(arguments)} {_type(arguments[0])}s"
    if origin is dict:
        return f"table of {_type(arguments[1])}s"
    return _WORDS.get(annotation, "file")


def _range(annotation: Any, metadata: Iterable[Any]) -> str:
    found = [*_limits(metadata)]
    for part in _alternatives(annotation):
        found += _limits(_metadata(part))
        bare = _bare(part)
        if get_origin(bare) is Literal:
            found += [", ".join(f"`{word}`" for word in get_args(bare) if isinstance(word, str))]
        if get_origin(bare) is tuple:
            found += [_range(get_args(bare)[0], ())]
    return "; ".join(dict.fromkeys(text for text in found if text))


def _limits(metadata: Iterable[Any]) -> Iterator[str]:
    words = []
    for limit in metadata:
        if isinstance(limit, str):
            yield limit
        elif isinstance(limit, FieldInfo):
            yield from _limits(limit.metadata)
        elif type(limit) in _LIMITS:
            attribute, sign = _LIMITS[type(limit)]
            words.append(f"{sign}{getattr(limit, attribute):g}")
    if words:
        yield ", ".join(words)


def _alternatives(annotation: Any) -> list[Any]:
    """What a union is of, else the type itself."""
    bare = _bare(annotation)
    if get_origin(bare) in (Union, UnionType):
        return [part for one in get_args(bare) for part in _alternatives(one)]
    return [annotation]


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _metadata(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
