"""What the command line prints: lines, bars and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from mrsi_engine.errors import MRSIError

if TYPE_CHECKING:
    from mrsi_engine.engine.events import Event, Sink
    from mrsi_engine.io.integrity import Damage
    from mrsi_engine.networks.training import TrainingProgress
    from mrsi_engine.report.compare import Comparison
    from mrsi_engine.report.truth import TruthRow
    from mrsi_engine.runs.one_scan import FinishedRun

out_console = Console()
err_console = Console(stderr=True)


def say(text: str) -> None:
    """A line as it is: paths hold brackets, and whoever pipes it wants it whole."""
    out_console.print(text, markup=False, highlight=False, soft_wrap=True)


def announce(outcome: FinishedRun) -> None:
    """What a run left, what had to be assumed on the way in, and last what to think of it."""
    counts = ", ".join(
        f"{count} {status.meaning.replace('_', ' ')}"
        for status, count in outcome.summary.statuses.items()
        if count
    )
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in outcome.timings.items())
    say(f"{outcome.summary.voxels} voxels: {counts}  ({steps})")
    say(f"{len(outcome.maps)} maps in {outcome.folder / 'maps'}")
    if outcome.report is not None:
        say(f"report: {outcome.report}")
    say_notes(outcome.result.attrs["notes"])
    say(outcome.verdict.text)


def say_notes(notes: Sequence[str]) -> None:
    """What had to be assumed on the way in, a line each."""
    for note in notes:
        say(f"note: {note}")


def explained(error: Exception) -> str:
    """What an error says to a user."""
    if isinstance(error, MRSIError):
        return str(error)
    if isinstance(error, OSError):
        # Of the machine: no permission, a full disk, a folder where a file should be.
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror or error}"
    return f"{type(error).__name__}: {error}\nThis is a defect of mrsi; --debug shows where"


def complain(message: str) -> None:
    """An error, on standard error."""
    # A name of a file may hold what makes a terminal do things.
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
    err_console.print(f"[bold red]error:[/] {escape(shown)}", highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """A line on what goes on, on standard error."""
    err_console.print(text, markup=False, highlight=False, soft_wrap=True)


def tell_damage(store: Path, damages: Sequence[Damage]) -> None:
    """What is damaged of a store that is made again."""
    from mrsi_engine.engine.events import DamageFound

    for line in DamageFound(store, tuple(map(str, damages))).lines:
        err_console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def run_progress(log: Path | None) -> Iterator[tuple[list[Sink], ImportBar]]:
    """Sinks of a run and the progress of its import, drawn on standard error."""
    from mrsi_engine.engine.progress import JsonLines, RichProgress

    sinks: list[Sink] = [_show_dashboard, RichProgress(err_console)]
    if log is not None:
        sinks.append(JsonLines(log))
    with ImportBar() as bar:
        yield sinks, bar


class _Bar:
    """A bar on standard error that appears with the first step that is told."""

    def __init__(self, title: str, total: int | None, *columns: ProgressColumn) -> None:
        first = (TextColumn(title), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*first, *columns, console=err_console)
        self._task = self._bar.add_task(title, total=total, losses="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def _show(self, **changes: Any) -> None:
        self._bar.start()
        self._bar.update(self._task, **changes)

    def _stop(self) -> None:
        # A bar that is not drawn would leave an empty line.
        if self._bar.live.is_started:
            self._bar.stop()


class ImportBar(_Bar):
    """A bar that appears with the first time point read and ends with the last."""

    def __init__(self) -> None:
        super().__init__("import", None)

    def __call__(self, done: int, total: int) -> None:
        self._show(completed=done, total=total)
        if done >= total:
            self._stop()


class TrainingBar(_Bar):
    """A bar in steps with the losses of the last validation; it appears with the first step."""

    def __init__(self, steps: int) -> None:
        super().__init__("train", steps, TextColumn("{task.fields[losses]}"))

    def __call__(self, progress: TrainingProgress) -> None:
        self._show(completed=progress.step)
        for last in progress.curve[-1:]:
            self._show(losses=f"loss {last.training:.4g}, validation {last.validation:.4g}")


def show_dashboard(link: str) -> None:
    """Where the dashboard is, and from another machine how to get there."""
    from mrsi_engine.engine.clusters import ssh_line

    note(f"dashboard: {link}")
    if (tunnel := ssh_line(link)) is not None:
        note(f"dashboard: from your own machine first: {tunnel}")


def _show_dashboard(event: Event) -> None:
    from mrsi_engine.engine.events import RunStarted

    if isinstance(event, RunStarted) and event.dashboard:
        show_dashboard(event.dashboard)


def truth_table(rows: Sequence[TruthRow]) -> Table:
    """Errors by metabolite."""
    from mrsi_engine.report.truth import MIN_SNR

    table = Table(title=f"Estimates against the truth, voxels of SNR {MIN_SNR:g} and more")
    headings = ("metabolite", "voxels", "true mean", "bias", "± SE", "RMSE", "CRLB", "RMSE/CRLB")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "metabolite" else "right")
    for row in rows:
        values = (row.truth, row.bias, row.bias_error, row.rmse, row.crlb)
        numbers = [f"{value:.3f}" for value in values]
        table.add_row(row.title, str(row.voxels), *numbers, f"{row.ratio:.2f}")
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Agreement by metabolite."""
    title = (
        f"Ratios to {comparison.reference_title}: {comparison.passing} of {comparison.compared} "
        "voxels pass"
    )
    table = Table(
        title=title, caption="difference: ours less LCModel's, mean ± 1.96 SD; % of both's mean"
    )
    for heading in ("metabolite", "voxels", "r", "slope", "difference, %", "difference"):
        table.add_column(heading, justify="left" if heading == "metabolite" else "right")
    for row in comparison.rows:
        one, other = row.percent_agreement, row.agreement
        table.add_row(
            *(row.title, str(row.voxels), f"{row.r:.3f}", f"{row.slope:.3f}"),
            f"{one.bias:+.1f} ± {one.half_width:.1f}",
            f"{other.bias:+.3f} ± {other.half_width:.3f}",
        )
    return table
