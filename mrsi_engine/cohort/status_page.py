"""``status.html``: how far a cohort is, in a page that opens anywhere and reloads itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from mrsi_engine.cohort.crash import CRASH, crash_name
from mrsi_engine.cohort.ledger import FINISHED, LOST, Record, State, now
from mrsi_engine.cohort.status import Status, pace_in_words, state_in_words
from mrsi_engine.io.files import write_atomically

#: Name of the page in the folder of a cohort.
PAGE = "status.html"

#: The page reloads itself so often (s) while a driver runs.
RELOAD = 5

#: Scans a table of the page lists before it only counts them.
_LISTED = 200

#: States from what ended to what is to come.
_BAR = (*FINISHED, *LOST, State.INTERRUPTED, State.RUNNING, State.WAITING)

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1c2733; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.bar { display: flex; height: 1.1rem; border-radius: 3px; overflow: hidden; background: #e6eaee; }
.done { background: #2e7d5b; } .unusable { background: #c99700; } .running { background: #3b7dd8; }
.failed, .refused { background: #b3372f; } .interrupted { background: #8a6d9b; }
ul.key { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; padding: 0; }
ul.key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; }
.waiting { background: #e6eaee; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; }
th, td { padding: .25rem .7rem .25rem 0; vertical-align: top; border-bottom: 1px solid #e6eaee; }
td:last-child { overflow-wrap: anywhere; } p.quiet { color: #5c6b7a; }
"""


def write_status_page(out: Path, status: Status) -> Path:
    """Write the page, whole.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    return write_atomically(out / PAGE, status_page(status).encode())


def status_page(status: Status) -> str:
    """The page: counts, scans that run with their step, failures with their crash folder."""
    reload = f'<meta http-equiv="refresh" content="{RELOAD}">' if status.driver else ""
    name = escape(Path(status.out).name or status.out)
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8">{reload}',
            f"<title>{status.ended}/{status.total} {name}</title><style>{_STYLE}</style></head>",
            f"<body><h1>{name}: {status.ended} of {status.total} scans ended</h1>",
            _bar(status),
            f"<p>{escape(_driver(status))}{escape(pace_in_words(status))}</p>",
            _table("Running", ("scan", "last step", "attempt", "since"), map(_run, status.running)),
            _table("Failed", ("scan", "state", "step", "error"), map(_failure, status.failures)),
            _table("Of no use", ("scan", "why"), map(_useless, status.unusable)),
            f'<p class="quiet">Written {now()[:19].replace("T", " ")} UTC by mrsi_engine '
            f"{escape(status.versions.get('mrsi-engine', ''))}.</p></body></html>\n",
        ]
    )


def _bar(status: Status) -> str:
    total = max(status.total, 1)
    parts = [(state, status.counts[state]) for state in _BAR if status.counts.get(state)]
    bar = "".join(
        f'<span class="{s}" style="width:{100 * n / total:.2f}%"></span>' for s, n in parts
    )
    key = "".join(f'<li><i class="{s}"></i>{n} {state_in_words(s)}</li>' for s, n in parts)
    return f'<div class="bar">{bar}</div><ul class="key">{key}</ul>'


def _driver(status: Status) -> str:
    if status.driver is None:
        return "No driver runs; the same command goes on with what is missing"
    since = status.driver.since[:16].replace("T", " ")
    return f"Driver {status.driver.pid} on {status.driver.host} since {since} UTC"


def _run(record: Record) -> tuple[str, ...]:
    since = record.time[11:19]
    return escape(record.scan), str(record.step or "begun"), str(record.attempt), f"{since} UTC"


def _failure(record: Record) -> tuple[str, ...]:
    folder = f"{CRASH}/{crash_name(record.scan)}/error.txt"
    error = f'<a href="{quote(folder)}">{escape(record.error or "see there")}</a>'
    return escape(record.scan), str(record.state), str(record.step or ""), error


def _useless(record: Record) -> tuple[str, ...]:
    report = f'<a href="{quote(record.scan)}/report.html">{escape(record.scan)}</a>'
    return report, escape(record.verdict)


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    listed = list(rows)
    if not listed:
        return ""
    head = "".join(f"<th>{name}</th>" for name in heads)
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in listed[:_LISTED]]
    more = len(listed) - _LISTED
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    rest = f'<p class="quiet">and {more} more</p>' if more > 0 else ""
    return f"<h2>{title} ({len(listed)})</h2><table><tr>{head}</tr>{body}</table>{rest}"
