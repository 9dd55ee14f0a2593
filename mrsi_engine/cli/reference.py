"""Writes ``docs/stages.md``: ``python -m mrsi_engine.cli.reference docs/stages.md``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from inspect import getdoc
from pathlib import Path

from mrsi_engine.pipeline.describe import described
from mrsi_engine.pipeline.registry import every_stage, is_shipped
from mrsi_engine.pipeline.stage import Stage

_HEAD = """\
# Stages

Every step a pipeline file may name, and what it may be told. This page is made from the stages
themselves by `make reference`; `mrsi stage show NAME` prints the same. Keys with a dot stand in a
table of their own: `baseline.kind` is `kind` under `[stages.baseline]`.
"""


def stages_page() -> str:
    """The reference page of the shipped stages, Markdown."""
    kinds = [kind for kind in every_stage().kinds.values() if is_shipped(kind)]
    return "\n".join([_HEAD, *(line for kind in kinds for line in _section(kind))])


def _section(kind: type[Stage]) -> Iterator[str]:
    yield f"## {kind.stage}\n"
    yield _plain(getdoc(kind) or "") + "\n"
    rows = described(kind)
    if not rows:
        return
    yield "| key | type | default | unit | range | what it is |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        default = "needed" if row.default is None else row.default and f"`{row.default}`"
        cells = (row.type, default, row.unit, row.range, row.description)
        yield f"| `{row.key}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _plain(text: str) -> str:
    """A docstring as Markdown."""
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(stages_page(), encoding="utf-8")
