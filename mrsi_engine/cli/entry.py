"""The command line: options in, one library call, a few lines out."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence

from cyclopts import App, CycloptsError, Parameter

from mrsi_engine import __version__
from mrsi_engine.cli.basis import basis_app
from mrsi_engine.cli.bids import bids_command
from mrsi_engine.cli.blocks import blocks_app
from mrsi_engine.cli.cluster import cluster_app
from mrsi_engine.cli.cohort import cohort_command
from mrsi_engine.cli.demo import demo_command, simulate_command
from mrsi_engine.cli.output import complain, err_console, explained
from mrsi_engine.cli.pipeline import pipeline_app
from mrsi_engine.cli.run import compare_command, export_command, import_command, run_command
from mrsi_engine.cli.stage import stage_app
from mrsi_engine.cli.status import status_command
from mrsi_engine.cli.train import train_command
from mrsi_engine.errors import InputError, MRSIError, RunError

#: Bits that files of ours do not get unless --umask says otherwise: nobody else may read them.
_UMASK = 0o077

#: What the system says of names that somebody gave.
_BAD_NAMES = (errno.ENAMETOOLONG, errno.ELOOP)

app = App(
    name="mrsi",
    help="MR spectroscopic imaging to metabolite and uncertainty maps.",
    version=__version__,
    help_epilogue="Add to any command: --debug for a traceback, --umask 027 to let others of your "
    "group read what it writes (077: nobody else).",
    default_parameter=Parameter(
        negative_iterable="",
        show_default=lambda value: None if value in ((), None, False) else str(value),
    ),
    suppress_keyboard_interrupt=False,
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo_command,
    "simulate": simulate_command,
    "import": import_command,
    "run": run_command,
    "bids": bids_command,
    "cohort": cohort_command,
    "status": status_command,
    "export": export_command,
    "compare": compare_command,
    "train": train_command,
}
for name, command in _COMMANDS.items():
    app.command(command, name=name)
app.command(basis_app)
app.command(cluster_app)
app.command(pipeline_app)
app.command(stage_app)
app.command(blocks_app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 for bad input, 1 for a failed run, 3 for one of no use."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    before, quiet = os.umask(_UMASK), logging.root.manager.disable
    if not debug:
        # That workers close while others still talk to them is no news to a user. Dask sets levels
        # of its own as it is imported, which is later.
        logging.disable(logging.ERROR)
    try:
        given = _with_umask(given)
        app(given, exit_on_error=False, print_error=False, result_action="return_none")
    except CycloptsError as error:
        _fail(f"{error} (see --help)", InputError.exit_code, debug)
    except MRSIError as error:
        _fail(explained(error), error.exit_code, debug)
    except OSError as error:
        bad = error.errno in _BAD_NAMES
        _fail(explained(error), InputError.exit_code if bad else RunError.exit_code, debug)
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on where this one ended", 130, debug)
    except Exception as error:
        _fail(explained(error), RunError.exit_code, debug)
    finally:
        os.umask(before)
        logging.disable(quiet)


def _with_umask(given: Sequence[str]) -> list[str]:
    """Set the umask that arguments ask for, and return the others.

    It is that of the process, so that it holds for all files of a run whoever writes them; the
    engine tells it to the workers of its cluster.
    """
    left = list(given)
    for at, argument in enumerate(left):
        if argument == "--" or not re.fullmatch(r"--umask(=.*)?", argument):
            continue
        last = at + 1 if "=" in argument else at + 2
        text = (argument.partition("=")[2] or " ".join(left[at + 1 : last])).strip()
        if not re.fullmatch(r"(0o?)?[0-7]{1,3}", text):
            raise InputError(f"--umask is {text!r}, expected octal digits such as 077, 027 or 022")
        os.umask(int(text.removeprefix("0o"), 8))
        return left[:at] + left[last:]
    return left


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        err_console.print_exception()
    complain(message)
    sys.exit(code)
