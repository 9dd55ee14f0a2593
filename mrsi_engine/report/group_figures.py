"""Strip plots of a group: a dot a scan, which leads to the scan's own report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bokeh.embed import components
from bokeh.models import BasicTicker, ColumnDataSource, HoverTool, OpenURL, Range1d, TapTool
from bokeh.plotting import figure
from bokeh.resources import Resources
from bokeh.transform import linear_cmap
from numpy.typing import NDArray

from mrsi_engine.report.group_statistics import (
    Measured,
    classes_of,
    numbers,
    outliers,
    usual_range,
)
from mrsi_engine.report.group_table import GroupTable

#: Protocols that have a strip each; the rarer ones share one.
MOST_STRIPS = 8

#: Scans up to which each has a dot; of more, outliers and some of the others.
MOST_DOTS = 20_000

_DOT, _OUTLIER, _BAND, _INK, _MUTED, _RULE = (
    "#1f5a96", "#c8442e", "#e9eef5", "#1b2129", "#5f6873", "#e2e5ea",
)  # fmt: skip
_FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"
_HEIGHT = 240

#: Half the width of a strip, bins of its height, and the distance of neighbours.
_HALF, _BINS, _STEP = 0.40, 30, 0.035

_TOOLTIP = (
    '<div style="font:13px {font};padding:2px 4px"><b>@scan</b><br>'
    '{title} @{{{column}}}{{0.[0000]}} {unit}<br><span style="color:{muted}">@protocol</span></div>'
)


@dataclass(frozen=True)
class Strips:
    """Figures as a page takes them.

    ``library`` is the script that draws, ``script`` what it draws, ``figures`` the place of each by
    its column. ``letters`` are what strips are called: letter, protocol, scans. ``dots`` is the
    number of scans that are drawn.
    """

    library: str
    script: str
    figures: dict[str, str]
    letters: list[tuple[str, str, int]]
    dots: int


def strips(table: GroupTable, columns: Sequence[Measured]) -> Strips:
    """A strip plot of each of the columns; a scan that is chosen in one is so in all."""
    letters, position = _strip_positions(table)
    data, dots = _data(table, columns, position)
    source = ColumnDataSource(data)
    drawn = {c.column: _strip(source, c, letters, table, position) for c in columns}
    script, figures = components(drawn) if drawn else ("", {})
    library = Resources(mode="inline", components=["bokeh"]).render_js() if drawn else ""
    return Strips(library, script, figures, letters, dots)


def _strip_positions(
    table: GroupTable,
) -> tuple[list[tuple[str, str, int]], NDArray[np.intp]]:
    """Letters of the strips, and the strip of each scan with results."""
    classes = classes_of(table, "protocol")
    alone = classes if len(classes) <= MOST_STRIPS else classes[: MOST_STRIPS - 1]
    letters = [(chr(65 + i), name or "unknown", n) for i, (name, n) in enumerate(alone)]
    rest = classes[len(alone) :]
    if rest:
        words = f"{len(rest)} other protocols"
        letters.append(("others", words, sum(count for _, count in rest)))
    places = {name: i for i, (name, _) in enumerate(alone)}
    names = table.done["protocol"].fillna("")
    return letters, np.array([places.get(str(n), len(alone)) for n in names], dtype=np.intp)


def _data(
    table: GroupTable, columns: Sequence[Measured], position: NDArray[np.intp]
) -> tuple[dict[str, object], int]:
    """What the dots are, and of how many scans: of very many some, and all outliers."""
    done = table.done
    protocols = done["protocol"].fillna("").to_numpy(dtype=str)
    values = {c.column: numbers(done, c.column) for c in columns}
    marked = {name: outliers(found, protocols) for name, found in values.items()}
    kept = np.arange(len(done)) % math.ceil(max(len(done), 1) / MOST_DOTS) == 0
    kept |= np.any(list(marked.values()), axis=0) if marked else False
    few = done[kept]
    links = zip(few["scan"], few["report"], strict=True)
    data: dict[str, object] = {
        "scan": few["scan"].tolist(),
        "protocol": protocols[kept].tolist(),
        "link": [report if isinstance(report, str) else f"{scan}/" for scan, report in links],
    }
    for name, found in values.items():
        data[name] = found[kept].astype(np.float32)
        data[f"{name} at"] = _spread(found[kept], position[kept]).astype(np.float32)
        data[f"{name} outlier"] = marked[name][kept].astype(np.uint8)
    return data, len(few)


def _spread(values: NDArray[np.float64], position: NDArray[np.intp]) -> NDArray[np.float64]:
    """Where dots stand across their strips: beside one another where they would overlap."""
    known = np.isfinite(values)
    at = position.astype(float)
    if not known.any():
        return at
    low, high = np.percentile(values[known], [1, 99])
    height = max(high - low, 1e-12)
    bins = np.clip(np.round(_BINS * (np.where(known, values, low) - low) / height), -99, 199)
    cells = np.unique(position * 1000 + bins, return_inverse=True)[1]
    order = np.argsort(cells, kind="stable")
    counts = np.bincount(cells)
    rank = np.empty(len(values))
    rank[order] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    step = np.minimum(_STEP, 2 * _HALF / np.maximum(counts, 1))[cells]
    return at + step * (rank - (counts[cells] - 1) / 2)


def _strip(
    source: ColumnDataSource,
    column: Measured,
    letters: Sequence[tuple[str, str, int]],
    table: GroupTable,
    position: NDArray[np.intp],
) -> figure:
    unit = "" if column.unit == "1" else column.unit
    plot = figure(
        height=_HEIGHT,
        sizing_mode="stretch_width",
        x_range=(-0.5, len(letters) - 0.5),
        tools="box_select,box_zoom,reset,save",
        toolbar_location="above",
        title=f"{column.title} ({unit})" if unit else column.title,
    )
    _style(plot, letters)
    values = numbers(table.done, column.column)
    plot.y_range = Range1d(*_limits(values))
    _usual(plot, values, position)
    dots = plot.scatter(
        f"{column.column} at",
        column.column,
        source=source,
        size=_size(len(position)),
        fill_color=linear_cmap(f"{column.column} outlier", [_DOT, _OUTLIER], 0, 1),
        fill_alpha=0.65,
        line_color=None,
        nonselection_fill_alpha=0.12,
        selection_fill_alpha=1.0,
    )
    tooltip = _TOOLTIP.format(
        font=_FONT, title=column.title, column=column.column, unit=unit, muted=_MUTED
    )
    plot.add_tools(
        HoverTool(renderers=[dots], tooltips=tooltip, limit=3),
        TapTool(renderers=[dots], callback=OpenURL(url="@link")),
    )
    return plot


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """What of the axis is shown: all values, and a margin."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _size(scans: int) -> float:
    return 7.0 if scans <= 200 else 5.0 if scans <= 1500 else 3.5


def _usual(plot: figure, values: NDArray[np.float64], position: NDArray[np.intp]) -> None:
    """The usual range and the median of each strip, behind its dots."""
    for place in np.unique(position):
        found = usual_range(values[position == place])
        if found is None:
            continue
        low, middle, high = found
        left, right = place - 0.46, place + 0.46
        plot.quad(left=left, right=right, bottom=low, top=high, color=_BAND, level="underlay")
        plot.segment(left, middle, right, middle, color=_INK, line_width=1.5, line_alpha=0.55)


def _style(plot: figure, letters: Sequence[tuple[str, str, int]]) -> None:
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.toolbar.active_drag = None
    plot.title.text_font, plot.title.text_font_size = _FONT, "14px"
    plot.title.text_color = _INK
    plot.outline_line_color = None
    plot.xgrid.grid_line_color = None
    plot.ygrid.grid_line_color = _RULE
    plot.xaxis.ticker = list(range(len(letters)))
    plot.xaxis.major_label_overrides = {i: letter for i, (letter, _, _) in enumerate(letters)}
    plot.yaxis.ticker = BasicTicker(desired_num_ticks=5)
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_line_color = None
        axis.major_tick_line_color = axis.minor_tick_line_color = None
        axis.major_label_text_font, axis.major_label_text_font_size = _FONT, "12px"
        axis.major_label_text_color = _MUTED
