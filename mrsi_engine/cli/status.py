"""Command that looks at a cohort while it runs, or afterwards: status."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape

from mrsi_engine.cli import output
from mrsi_engine.cli.places import Place
from mrsi_engine.errors import InputError

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from mrsi_engine.cohort.ledger import Record
    from mrsi_engine.cohort.status import Status

#: Scans of a kind that are listed before they are only counted.
_LISTED = 20


def status_command(
    out: Place,
    /,
    *,
    watch: Annotated[bool, Parameter(negative="")] = False,
    every: float = 2.0,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Say how far a cohort is, from any machine that sees its folder; nothing is written there.

    Parameters
    ----------
    out
        Folder of the cohort.
    watch
        Look again and again, until its driver ends.
    every
        How often to look, s.
    as_json
        Print counts, pace, running scans and failures as JSON.
    """
    from mrsi_engine.cohort.ledger import LedgerReader
    from mrsi_engine.cohort.status import read_status

    if watch and as_json:
        raise InputError("--watch draws for people, --json prints once for programs; give one")
    if not every > 0:
        raise InputError(f"--every is {every:g}, expected seconds above 0")
    reader = LedgerReader(out)
    if as_json:
        output.say(json.dumps(read_status(out, reader).as_json(), indent=1))
    elif watch:
        _watch(lambda: read_status(out, reader), every)
    else:
        output.out_console.print(drawn(read_status(out, reader)))


def _watch(look: Callable[[], Status], every: float) -> None:
    from rich.live import Live

    status = look()
    with Live(drawn(status), console=output.out_console, auto_refresh=False) as live:
        while status.driver is not None:
            time.sleep(every)
            status = look()
            live.update(drawn(status), refresh=True)


def drawn(status: Status) -> Group:
    """Counts, pace, scans that run and those that failed, as a terminal shows them."""
    from rich.console import Group
    from rich.text import Text

    from mrsi_engine.cohort.status import pace_in_words

    driver = status.driver
    by = f"driver {driver.pid} on {driver.host}" if driver is not None else "no driver runs"
    parts: list[RenderableType] = [
        Text(status.out),
        _counts(status),
        escape(f"{by}{pace_in_words(status)}"),
    ]
    for title, heads, rows in _lists(status):
        if rows:
            parts.append(_table(title, heads, rows))
    return Group(*parts, *map(escape, status.problems))


def _counts(status: Status) -> RenderableType:
    from rich.table import Table

    from mrsi_engine.cohort.status import state_in_words

    table = Table()
    for name in (*map(state_in_words, status.counts), "scans"):
        table.add_column(name, justify="right")
    table.add_row(*map(str, (*status.counts.values(), status.total)))
    return table


def _lists(status: Status) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, columns and rows of each table."""

    def rows(records: Sequence[Record], *names: str) -> list[tuple[str, ...]]:
        return [tuple(str(getattr(r, name) or "") for name in names) for r in records]

    return [
        (
            "running",
            ("scan", "last step", "attempt", "worker"),
            rows(status.running, "scan", "step", "attempt", "worker"),
        ),
        (
            "failed",
            ("scan", "state", "step", "error"),
            rows(status.failures, "scan", "state", "step", "error"),
        ),
        ("of no use", ("scan", "why"), rows(status.unusable, "scan", "verdict")),
    ]


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    from rich.table import Table

    more = len(rows) - _LISTED
    table = Table(title=f"{title} ({len(rows)})", caption=f"and {more} more" if more > 0 else None)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows[:_LISTED]:
        table.add_row(*map(escape, row))
    return table
