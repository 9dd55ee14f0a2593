"""Methods text of a cohort and what to cite: from the pipelines that its scans went through."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from typing import Any

#: Cited whatever was done: the format, and what a report of spectroscopy should say.
_FORMAT, _REPORTING = "clarke2022", "lin2021"

_LICENCE = (
    "This text is in the public domain (CC0): copy it into a manuscript and change it as you like."
)


@dataclass(frozen=True)
class Methods:
    """What was done, sentence by sentence, and the sources of it.

    Parameters
    ----------
    paragraphs
        Of the pipelines, in sentences with ``[n]`` for the references.
    references
        Keys, in the order they are cited.
    software
        Names and versions.
    """

    paragraphs: tuple[str, ...]
    references: tuple[str, ...]
    software: tuple[tuple[str, str], ...]

    def markdown(self) -> str:
        """As a text with numbered references."""
        listed = [f"{i}. {cited(key)}" for i, key in enumerate(self.references, 1)]
        return "\n\n".join(["# Methods", *self.paragraphs, "## References", "\n".join(listed)])

    def bibtex(self) -> str:
        """The references for LaTeX."""
        return "\n".join(_bibtex(key) for key in self.references)


def methods_of(
    pipelines: Sequence[tuple[Mapping[str, Any], int]],
    protocols: Sequence[tuple[str, int]] = (),
    bases: Sequence[tuple[str, int]] = (),
) -> Methods:
    """What scans of these pipelines went through.

    Parameters
    ----------
    pipelines
        Settings as results keep them, and how many scans went through each.
    protocols, bases
        Protocols in words and names of bases, and how many scans each has.
    """
    cite = _Citations()
    paragraphs = [f"Spectroscopic scans: {_counted(protocols)}."] if protocols else []
    paragraphs += [_processed(*one, cite, several=len(pipelines) > 1) for one in pipelines]
    paragraphs += [f"Basis sets: {_counted(bases)}."] if bases else []
    found = tuple(_software())
    data = f"Data were in NIfTI-MRS{cite.of([_FORMAT])}."
    names = ", ".join(f"{name} {number}{cite.of(_sources_of(name))}" for name, number in found)
    standard = "What a report of spectroscopy should say is listed by the experts' consensus"
    paragraphs.append(f"{data} Software: {names}.")
    paragraphs.append(f"{standard}{cite.of([_REPORTING])}. {_LICENCE}")
    return Methods(tuple(paragraphs), tuple(cite.keys), found)


def cited(key: str) -> str:
    """A reference in words."""
    source = _tables()["reference"][key]
    where = " ".join(str(source[f]) for f in ("journal", "year") if f in source)
    pages = ":".join(str(source[f]) for f in ("volume", "pages") if f in source)
    doi = f" doi:{source['doi']}" if "doi" in source else ""
    authors = source["author"].replace(" and others", " et al").replace(" and ", ", ")
    return f"{authors}. {source['title']}. {where};{pages}.{doi}"


class _Citations:
    """Numbers references in the order they are cited."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def of(self, keys: Sequence[str]) -> str:
        """Their numbers in brackets, after what they stand for; empty without any."""
        self.keys += [key for key in keys if key not in self.keys]
        numbers = sorted(self.keys.index(key) + 1 for key in keys)
        return f" [{', '.join(map(str, numbers))}]" if numbers else ""


def _counted(named: Sequence[tuple[str, int]]) -> str:
    return "; ".join(f"{words or 'unknown'} ({_scans(count)})" for words, count in named)


def _processed(settings: Mapping[str, Any], scans: int, cite: _Citations, *, several: bool) -> str:
    who = f"{_scans(scans)} went through" if several else "Scans went through"
    name = settings.get("name", "of its own")
    engine = _version("mrsi-engine") or "unknown"
    begin = f"{who} the pipeline {name!r} of mrsi_engine {engine}."
    return " ".join([begin, *_sentences(settings, cite)])


def _sentences(settings: Mapping[str, Any], cite: _Citations) -> Iterator[str]:
    for stage in settings.get("stages", []):
        known = [s for s in _tables()["sentence"] if s["stage"] == stage["stage"]]
        if not known:
            yield f"Stage {stage['stage']!r} of a plug-in was applied."
        for sentence in known:
            if all(stage.get(k) in values for k, values in sentence.get("when", {}).items()):
                yield f"{sentence['text'].format_map(stage)}{cite.of(sentence['cite'])}."


def _scans(count: int) -> str:
    return f"{count} scan{'s' if count != 1 else ''}"


def _software() -> Iterator[tuple[str, str]]:
    for name in _tables()["software"]:
        number = _version(name)
        if number:
            yield name, number


def _sources_of(name: str) -> Sequence[str]:
    return _tables()["software"].get(name, ())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _bibtex(key: str) -> str:
    fields = _tables()["reference"][key]
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@article{{{key},", *lines, "}", ""])


@cache
def _tables() -> dict[str, Any]:
    text = resources.files("mrsi_engine.report").joinpath("methods.toml").read_text("utf-8")
    return tomllib.loads(text)
