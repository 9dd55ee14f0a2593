"""Commands for stages: what there is, and what each may be told."""

from __future__ import annotations

from cyclopts import App
from rich.markup import escape
from rich.table import Table

from mrsi_engine.cli import output

stage_app = App(name="stage", help="Steps of pipelines and their settings.")


@stage_app.command(name="list")
def stage_list_command() -> None:
    """Print every stage that a pipeline may name, those of installed plug-ins among them."""
    from mrsi_engine.pipeline.describe import first_paragraph
    from mrsi_engine.pipeline.registry import every_stage, is_shipped

    found = every_stage()
    for key, kind in found.kinds.items():
        whose = "" if is_shipped(kind) else f" (of {kind.__module__})"
        output.say(f"{key}{whose}: {first_paragraph(kind)}")
    for problem in found.problems:
        output.err_console.print(f"[yellow]note:[/] {escape(problem)}", soft_wrap=True)


@stage_app.command(name="show")
def stage_show_command(name: str, /) -> None:
    """Print what a stage may be told: every key of its table in a pipeline file.

    Parameters
    ----------
    name
        Key of the stage; see mrsi stage list.
    """
    from mrsi_engine.pipeline.describe import described, first_paragraph
    from mrsi_engine.pipeline.registry import stage_kind

    kind = stage_kind(name)
    output.say(f"{name}: {first_paragraph(kind)}")
    table = Table(show_lines=True)
    for heading in ("key", "type", "default", "unit", "range", "description"):
        table.add_column(heading, overflow="fold", ratio=3 if heading == "description" else None)
    for row in described(kind):
        default = "(needed)" if row.default is None else row.default
        cells = (row.key, row.type, default, row.unit, row.range, row.description)
        table.add_row(*(escape(cell.replace("`", "")) for cell in cells))
    output.out_console.print(table)
