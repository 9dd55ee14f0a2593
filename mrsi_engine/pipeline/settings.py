"""Settings that document themselves: every field says what it is, its unit and its range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator


def setting(default: Any, description: str, *, unit: str = "", **limits: Any) -> Any:
    """A field of :class:`Settings`.

    Parameters
    ----------
    default
        Its value if nothing is said; ``...`` where something must be.
    description
        What it is, in a sentence or two, for a user.
    unit
        Of its numbers; empty for words, switches, counts and ratios.
    limits
        As :func:`pydantic.Field` takes them: ``ge``, ``gt``, ``le`` and ``lt``.
    """
    return Field(default, description=description, json_schema_extra={"unit": unit}, **limits)


class Settings(BaseModel):
    """Base of stages and of groups of their settings: frozen, and strict about names.

    ``moved`` says where settings of an earlier version are now, as ``{"old_key": "group.key"}``;
    a file that still has one is refused with the new name. ``leading`` is the key of a group that
    says what it is, for the message to who gives a word where a table is expected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    moved: ClassVar[Mapping[str, str]] = {}
    leading: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_moved(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        moved = [(key, cls.moved[key]) for key in given if key in cls.moved]
        if moved:
            raise ValueError("; ".join(f"{key!r} is now {_in_toml(place)}" for key, place in moved))
        for name, field in cls.model_fields.items():
            group, value = group_of(field.annotation), given.get(name)
            if group is None or name not in given or isinstance(value, Mapping | BaseModel):
                continue
            word = f"{group.leading} = {value!r}".replace("'", '"')
            raise ValueError(f"{name!r} is a table now: [stages.{name}] {word}")
        return given

    def with_setting(self, key: str, value: Any) -> Self:
        """A copy with another value of a key, ``table.key`` of one in a table."""
        name, _, inside = key.partition(".")
        changed = getattr(self, name).with_setting(inside, value) if inside else value
        return self.model_copy(update={name: changed})


def group_of(annotation: Any) -> type[Settings] | None:
    """The group of settings, a table of its own, that a field of this type holds, if it does."""
    is_group = isinstance(annotation, type) and issubclass(annotation, Settings)
    return annotation if is_group else None


def _in_toml(place: str) -> str:
    group, _, key = place.rpartition(".")
    return f"{key!r} of the table [stages.{group}]" if group else repr(key)


def _ascending(
    value: tuple[float, float] | None, info: ValidationInfo
) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = value
    if not low < high:
        raise ValueError(f"{info.field_name} must be [low, high] in ppm, found [{low}, {high}]")
    return value


#: A setting [low, high] in ppm; the words are for its description.
PpmRange = Annotated[tuple[float, float], AfterValidator(_ascending), "low < high"]

#: The same, where it is the nucleus' own unless given.
NucleusRange = Annotated[tuple[float, float] | None, AfterValidator(_ascending), "low < high"]
