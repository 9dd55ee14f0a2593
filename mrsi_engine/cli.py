"""The command line: options in, one library call, a few lines out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mrsi_engine import __version__
from mrsi_engine.engine.devices import AUTO, device_here
from mrsi_engine.engine.events import Event, RunStarted, Sink
from mrsi_engine.engine.progress import JsonLines, RichProgress
from mrsi_engine.errors import InputError, MRSIError, RunError
from mrsi_engine.io.basis_files import read_basis, write_basis
from mrsi_engine.io.result_store import open_result
from mrsi_engine.networks import training
from mrsi_engine.networks.model import REPORT
from mrsi_engine.networks.recipes import load_recipe
from mrsi_engine.report.compare import Comparison
from mrsi_engine.report.truth import MIN_SNR, TruthRow
from mrsi_engine.spectra.phantom import Nuisance, PhantomSettings
from mrsi_engine.spectra.simulation import simulate_basis
from mrsi_engine.stages.pipeline import Pipeline, pipeline_text, shipped_pipelines
from mrsi_engine.workflow import (
    DEFAULT_PIPELINE,
    BasisChoice,
    Inputs,
    Options,
    Outcome,
    compared,
    completed,
    demo,
    export,
    folders_of,
    imported,
    process,
    report_on,
    result_folder,
    simulate_scan,
    train,
)

out_console = Console()
err_console = Console(stderr=True)

app = App(
    name="mrsi",
    help="MR spectroscopic imaging to metabolite and uncertainty maps.",
    version=__version__,
    help_epilogue="Add --debug to any command for a traceback.",
    default_parameter=Parameter(
        negative_iterable="",
        show_default=lambda value: None if value in ((), None, False) else str(value),
    ),
    suppress_keyboard_interrupt=False,
)
basis_app = App(name="basis", help="Simulate and inspect basis sets.")
pipeline_app = App(name="pipeline", help="Ready-made pipelines.")
app.command(basis_app)
app.command(pipeline_app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 for bad input, 1 for a failed run."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    # That workers close while others still talk to them is no news to a user.
    logging.getLogger("distributed").setLevel(logging.ERROR if debug else logging.CRITICAL)
    try:
        app(
            [a for a in given if a != "--debug"],
            exit_on_error=False,
            print_error=False,
            result_action="return_none",
        )
    except CycloptsError as error:
        _fail(f"{error} (see --help)", InputError.exit_code, debug)
    except MRSIError as error:
        _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on where this one ended", 130, debug)
    except OSError as error:
        # Of the machine: no permission, a full disk, a folder where a file should be.
        where = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{where}{error.strerror or error}", RunError.exit_code, debug)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        _fail(f"{what}\nThis is a defect of mrsi; --debug shows where", 1, debug)


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        err_console.print_exception()
    err_console.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)


@Parameter(name="*")
@dataclass(frozen=True)
class Files:
    """What belongs to a scan beside its signals.

    Parameters
    ----------
    mask
        NIfTI volume, not zero where to quantify; without one it is made from signal energy.
    water
        Unsuppressed water reference, NIfTI-MRS. One on another grid is resampled.
    tissue
        4-D NIfTI of tissue fractions; name its classes with --tissue-classes.
    tissue_classes
        Names of the tissue file's last dimension, in order.
    gm
        Fraction map of grey matter; with --wm and --csf instead of --tissue.
    wm
        Fraction map of white matter.
    csf
        Fraction map of cerebrospinal fluid.
    scalp
        Mask of the scalp: its voxels outside --mask show stages what lipids look like.
    points
        Use only so many points of every FID.
    """

    mask: Path | None = None
    water: Path | None = None
    tissue: Path | None = None
    tissue_classes: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    gm: Path | None = None
    wm: Path | None = None
    csf: Path | None = None
    scalp: Path | None = None
    points: int | None = None

    def of(self, scan: Path) -> Inputs:
        """All files of one scan."""
        fractions = {"gm": self.gm, "wm": self.wm, "csf": self.csf}
        separate = {name: path for name, path in fractions.items() if path is not None}
        if separate and self.tissue is not None:
            raise InputError("give tissue fractions once: --tissue, or --gm, --wm and --csf")
        tissue = self.tissue if self.tissue is not None else separate or None
        return Inputs(
            scan,
            mask=self.mask,
            water=self.water,
            tissue=tissue,
            tissue_classes=self.tissue_classes,
            scalp=self.scalp,
            points=self.points,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where and how to compute.

    Parameters
    ----------
    workers
        Worker processes on this machine (default: one a core, or a GPU); 0 runs without Dask.
    scheduler
        Address of a running Dask scheduler, e.g. tcp://node1:8786, instead of --workers.
    threads_per_worker
        Blocks a worker does at once.
    block_size
        Voxels a task; results do not depend on it.
    device
        auto (every worker takes a GPU if it has one), cpu or cuda.
    log
        File that gets every event of the run as a line of JSON.
    overwrite
        Replace what another run left in the output folder.
    """

    workers: int | None = None
    scheduler: str | None = None
    threads_per_worker: int = 1
    block_size: int | None = None
    device: str = AUTO
    log: Path | None = None
    overwrite: Annotated[bool, Parameter(negative="")] = False

    def options(
        self, keep: tuple[str, ...] = (), fill: Literal["nan", "mrsiprep"] = "nan"
    ) -> Options:
        """As the workflow takes them."""
        return Options(
            workers=self.workers,
            scheduler=self.scheduler,
            threads_per_worker=self.threads_per_worker,
            block_size=self.block_size,
            device=self.device,
            keep=keep,
            fill=fill,
            overwrite=self.overwrite,
        )


_FILES, _WHERE = Files(), Where()


@app.command(name="demo")
def demo_command(
    *,
    out: Path = Path("demo-out"),
    shape: tuple[int, int, int] = (24, 24, 8),
    seed: int = 1,
    snr: float = 40.0,
    nuisance: Nuisance = "water",
    where: Where = _WHERE,
) -> None:
    """Simulate a brain MRSI scan, fit it, write maps and report, and compare with the truth.

    Parameters
    ----------
    out
        Output folder.
    shape
        Voxels in x, y and z.
    seed
        Of every random draw.
    snr
        Height of the NAA peak over the SD of the noise.
    nuisance
        What disturbs the spectra.
    """
    settings = PhantomSettings(shape=shape, seed=seed, snr=snr, nuisance=nuisance)
    with _progress(where) as (sinks, progress):
        outcome, rows = demo(out, settings, where.options(), sinks=sinks, progress=progress)
    out_console.print(_truth_table(rows))
    _announce(outcome)


@app.command(name="simulate")
def simulate_command(
    *,
    out: Path,
    shape: tuple[int, int, int] = (24, 24, 8),
    seed: int = 1,
    snr: float = 40.0,
    nuisance: Nuisance = "none",
    b0_hz: float = 5.0,
    basis: str | None = None,
) -> None:
    """Simulate a brain MRSI scan with known truth and write it as NIfTI-MRS.

    Parameters
    ----------
    out
        Folder for scan, mask, water, tissue fractions and truth maps.
    shape
        Voxels in x, y and z.
    seed
        Of every random draw.
    snr
        Height of the NAA peak over the SD of the noise, for the mean brain voxel.
    nuisance
        What disturbs the spectra.
    b0_hz
        SD of the smooth B0 map, Hz.
    basis
        File, folder or name of the basis; press-3t-te30 by default.
    """
    settings = PhantomSettings(shape=shape, seed=seed, snr=snr, nuisance=nuisance, b0_hz=b0_hz)
    phantom = simulate_scan(out, settings, BasisChoice(basis) if basis else None)
    _say(f"{out}: {int(phantom.mask.sum())} brain voxels of {phantom.mask.size}")


@app.command(name="import")
def import_command(
    scan: Path,
    /,
    *,
    out: Path,
    files: Files = _FILES,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Import a NIfTI-MRS scan into a chunked store.

    Parameters
    ----------
    scan
        NIfTI-MRS file, .nii or .nii.gz.
    out
        Folder of the store, e.g. scan.zarr.
    overwrite
        Replace a store that is there.
    """
    with _ImportBar() as progress:
        store = imported(files.of(scan), out, overwrite, progress)
    _say(
        f"{out}: {store.voxels} voxels of {' x '.join(map(str, store.shape))}, "
        f"{store.acquisition.points} points, mask from {store.mask_origin}"
    )


@app.command(name="run")
def run_command(
    scans: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)],
    /,
    *,
    basis: str | None = None,
    out: Path,
    pipeline: str = DEFAULT_PIPELINE,
    keep: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    fill: Literal["nan", "mrsiprep"] = "nan",
    basis_reference: float | None = None,
    basis_conjugate: Annotated[bool, Parameter(negative="")] = False,
    files: Files = _FILES,
    where: Where = _WHERE,
) -> None:
    """Import, process, export and report one scan or several.

    The same command again does only what is missing.

    Parameters
    ----------
    scans
        NIfTI-MRS files. Several get a folder each under --out.
    basis
        LCModel .basis, FSL-MRS JSON folder, jMRUI text, or a simulated one, e.g. press-3t-te30;
        needed by pipelines that quantify.
    out
        Output folder.
    pipeline
        Name of a ready-made pipeline or a TOML file; see mrsi pipeline list.
    keep
        Signals to store and write as NIfTI-MRS: corrected, fit, baseline.
    fill
        What maps hold where there is no fit: NaN, or what MRSIPrep reads.
    basis_reference
        Chemical shift (ppm) at 0 Hz of the basis, where its file does not say.
    basis_conjugate
        Turn the frequency axis of the basis round.
    """
    if basis is None and (basis_reference is not None or basis_conjugate):
        raise InputError("--basis-reference and --basis-conjugate say how to read --basis; give it")
    chosen = BasisChoice(basis, basis_reference, basis_conjugate) if basis else None
    steps = Pipeline.load(pipeline)
    for scan, folder in folders_of(scans, out).items():
        with _progress(where) as (sinks, progress):
            outcome = process(
                files.of(scan),
                chosen,
                steps,
                folder,
                where.options(keep, fill),
                sinks=sinks,
                progress=progress,
            )
        _announce(outcome)


@app.command(name="export")
def export_command(folder: Path, /, *, fill: Literal["nan", "mrsiprep"] = "nan") -> None:
    """Write maps, table and report of a finished run again.

    Parameters
    ----------
    folder
        Output folder of the run.
    fill
        What maps hold where there is no fit: NaN, or what MRSIPrep reads.
    """
    maps = export(open_result(result_folder(folder)), folder, fill)
    report = report_on(folder)
    _say(f"{len(maps)} maps in {folder / 'maps'}, report {report}")


@app.command(name="compare")
def compare_command(
    folder: Path,
    /,
    *,
    lcmodel: Path,
    max_percent_sd: float = 10.0,
    max_fit_quality: float = 3.0,
    max_relative_residual: float = 0.2,
) -> None:
    """Compare a finished run with LCModel's results and add a scatter plot to its report.

    Parameters
    ----------
    folder
        Output folder of the run.
    lcmodel
        LCModel's CSV table.
    max_percent_sd
        Largest %SD of LCModel for a voxel to count.
    max_fit_quality
        Largest fit quality (1 is noise alone) for a voxel of ours to count, ...
    max_relative_residual
        ... or largest relative residual: the noise of filtered data cannot be measured.
    """
    comparison = compared(
        folder,
        lcmodel,
        max_percent_sd=max_percent_sd,
        max_fit_quality=max_fit_quality,
        max_relative_residual=max_relative_residual,
    )
    out_console.print(_comparison_table(comparison))


@app.command(name="train")
def train_command(
    *,
    basis: str | None = None,
    recipe: str = "press-3t-te30",
    out: Path,
    pipeline: str = DEFAULT_PIPELINE,
    scan: Path | None = None,
    start: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    device: str = AUTO,
) -> None:
    """Train a network, on simulated signals or on those of a scan, without labels.

    Parameters
    ----------
    basis
        As mrsi run takes it, e.g. press-3t-te30; recipes that simulate a spectrum of their own
        need none.
    recipe
        Name of a ready-made recipe or a TOML file, for quantification or for frequency and phase
        correction (fpc-...).
    out
        Folder of the model.
    pipeline
        Whose fit the error bars of the network's own estimates are calibrated for, where the
        recipe asks for that.
    scan
        Output folder of a run with --keep corrected, or a scan store without water, to learn from.
    start
        Folder or name of a trained model to begin with: fine-tuning.
    resume
        Go on with a training that was stopped.
    device
        auto (a GPU if there is one), cpu or cuda.
    """
    chosen = load_recipe(recipe)
    source = BasisChoice(basis) if basis else None
    steps = Pipeline.load(pipeline)
    with _TrainingBar(chosen.training.steps) as bar:
        model, progress = train(
            out,
            chosen,
            source,
            pipeline=steps,
            scan=scan,
            start=start,
            resume=resume,
            device=device,
            on_point=bar,
        )
    _say(
        f"{out}: {chosen.name}, {progress.step} steps in {progress.seconds:.0f} s on "
        f"{device_here(device)}, "
        f"best validation loss {progress.best:.4g} after {progress.best_step}"
    )
    _say(", ".join(f"{name} {score:.3g}" for name, score in model.card.scores.items()))
    _say(f"report: {out / REPORT}")


@basis_app.command(name="simulate")
def basis_simulate_command(
    *,
    sequence: Literal["press", "slaser", "steam", "fid"],
    te: float,
    out: Path,
    field: float = 3.0,
    frequency: float | None = None,
    points: int = 2048,
    dwell: float = 0.25,
    te1: float | None = None,
    tm: float | None = None,
    linewidth: float = 1.0,
    metabolites: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    macromolecules: bool = True,
) -> None:
    """Simulate a basis set with ideal pulses and write it as a folder of JSON files.

    Parameters
    ----------
    sequence
        Pulse sequence.
    te
        Echo time, ms (for fid: from the excitation to the first sample).
    out
        Folder of the basis.
    field
        Tesla.
    frequency
        Spectrometer frequency, MHz, instead of the field.
    points
        Samples of a FID.
    dwell
        Dwell time, ms.
    te1
        First echo time of PRESS, ms; half of --te by default.
    tm
        Mixing time of STEAM, ms.
    linewidth
        Lorentzian line width, Hz.
    metabolites
        Names; the usual ones of the brain by default.
    macromolecules
        Add parametric macromolecules.
    """
    optional: dict[str, Any] = {
        "te1": None if te1 is None else te1 * 1e-3,
        "mixing_time": None if tm is None else tm * 1e-3,
        "metabolites": metabolites or None,
    }
    basis = simulate_basis(
        sequence,
        echo_time=te * 1e-3,
        field=None if frequency else field,
        spectrometer_frequency=frequency,
        points=points,
        dwell_time=dwell * 1e-3,
        linewidth=linewidth,
        **{key: value for key, value in optional.items() if value is not None},
    )
    basis = completed(basis) if macromolecules else basis
    write_basis(basis, out)
    _say(f"{out}: {', '.join(basis.names)}")


@basis_app.command(name="show")
def basis_show_command(basis: Path, /) -> None:
    """Print what a basis file or folder holds.

    Parameters
    ----------
    basis
        LCModel .basis, FSL-MRS JSON folder or jMRUI text.
    """
    found = read_basis(basis)
    axis = found.acquisition
    echo = "unknown" if axis.echo_time is None else f"{axis.echo_time * 1e3:g} ms"
    _say(
        f"{basis}: {len(found.names)} columns, {axis.points} points of {axis.dwell_time * 1e3:g} "
        f"ms, {axis.spectrometer_frequency:g} MHz, sequence {found.sequence or 'unknown'}, echo "
        f"time {echo}\n{', '.join(found.names)}"
    )


@pipeline_app.command(name="list")
def pipeline_list_command() -> None:
    """Print the ready-made pipelines."""
    for name in shipped_pipelines():
        _say(f"{name}: {Pipeline.load(name).description}")


@pipeline_app.command(name="show")
def pipeline_show_command(name: str, /) -> None:
    """Print a pipeline as TOML, to be copied and changed.

    Parameters
    ----------
    name
        Name of a ready-made pipeline or a file.
    """
    Pipeline.load(name)
    _say(pipeline_text(name).rstrip("\n"))


@contextmanager
def _progress(where: Where) -> Iterator[tuple[list[Sink], _ImportBar]]:
    """Sinks of a run and the progress of its import, drawn on standard error."""
    sinks: list[Sink] = [_show_dashboard, RichProgress(err_console)]
    if where.log is not None:
        sinks.append(JsonLines(where.log))
    with _ImportBar() as bar:
        yield sinks, bar


class _ImportBar(AbstractContextManager["_ImportBar"]):
    """A bar that appears with the first time point read and ends with the last."""

    def __init__(self) -> None:
        columns = (TextColumn("import"), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=err_console)
        self._task = self._bar.add_task("import", total=None)

    def __call__(self, done: int, total: int) -> None:
        self._bar.start()
        self._bar.update(self._task, completed=done, total=total)
        if done >= total:
            self._stop()

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def _stop(self) -> None:
        # A bar that is not drawn would leave an empty line.
        if self._bar.live.is_started:
            self._bar.stop()


class _TrainingBar(AbstractContextManager["_TrainingBar"]):
    """A bar in steps with the losses of the last validation; it appears with the first step."""

    def __init__(self, steps: int) -> None:
        losses = TextColumn("{task.fields[losses]}")
        columns = (TextColumn("train"), BarColumn(), TimeRemainingColumn(), losses)
        self._bar = Progress(*columns, console=err_console)
        self._task = self._bar.add_task("train", total=steps, losses="")

    def __call__(self, progress: training.Progress) -> None:
        self._bar.start()
        self._bar.update(self._task, completed=progress.step)
        for last in progress.curve[-1:]:
            losses = f"loss {last.training:.4g}, validation {last.validation:.4g}"
            self._bar.update(self._task, losses=losses)

    def __exit__(self, *exception: object) -> None:
        # A bar that is not drawn would leave an empty line.
        if self._bar.live.is_started:
            self._bar.stop()


def _show_dashboard(event: Event) -> None:
    if isinstance(event, RunStarted) and event.dashboard:
        err_console.print(f"dashboard: {event.dashboard}", highlight=False, soft_wrap=True)


def _announce(outcome: Outcome) -> None:
    counts = ", ".join(
        f"{count} {status.meaning.replace('_', ' ')}"
        for status, count in outcome.summary.statuses.items()
        if count
    )
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in outcome.timings.items())
    _say(f"{outcome.summary.voxels} voxels: {counts}  ({steps})")
    _say(f"{len(outcome.maps)} maps in {outcome.folder / 'maps'}")
    _say(f"report: {outcome.report}")


def _say(text: str) -> None:
    """A line as it is: paths hold brackets, and whoever pipes it wants it whole."""
    out_console.print(text, markup=False, highlight=False, soft_wrap=True)


def _truth_table(rows: Sequence[TruthRow]) -> Table:
    table = Table(title=f"Estimates against the truth, voxels of SNR {MIN_SNR:g} and more")
    headings = ("metabolite", "voxels", "true mean", "bias", "± SE", "RMSE", "CRLB", "RMSE/CRLB")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "metabolite" else "right")
    for row in rows:
        values = (row.truth, row.bias, row.bias_error, row.rmse, row.crlb)
        numbers = [f"{value:.3f}" for value in values]
        table.add_row(row.title, str(row.voxels), *numbers, f"{row.ratio:.2f}")
    return table


def _comparison_table(comparison: Comparison) -> Table:
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
