"""The command line. Its modules import what they call inside, so that help is there at once."""

from mrsi_engine.cli.entry import app, main

__all__ = ["app", "main"]
