"""The command line. Its modules import what they call inside, so that help is there at once."""

from mrsi_engine.cli.entry import app, main
from mrsi_engine.cli.output import err_console, out_console

__all__ = ["app", "err_console", "main", "out_console"]
