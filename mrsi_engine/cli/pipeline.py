"""Commands for pipelines."""

from __future__ import annotations

from cyclopts import App

from mrsi_engine.cli import output

pipeline_app = App(name="pipeline", help="Ready-made pipelines.")


@pipeline_app.command(name="list")
def pipeline_list_command() -> None:
    """Print the ready-made pipelines."""
    from mrsi_engine.pipeline.pipeline import Pipeline, shipped_pipelines

    for name in shipped_pipelines():
        output.say(f"{name}: {Pipeline.load(name).description}")


@pipeline_app.command(name="show")
def pipeline_show_command(name: str, /) -> None:
    """Print a pipeline as TOML, to be copied and changed.

    Parameters
    ----------
    name
        Name of a ready-made pipeline or a file.
    """
    from mrsi_engine.pipeline.pipeline import Pipeline, pipeline_text

    Pipeline.load(name)
    output.say(pipeline_text(name).rstrip("\n"))
