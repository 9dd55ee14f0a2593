"""The report as a browser would take it: complete, alone, and safe to open."""

from __future__ import annotations

import re
import time
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from mrsi_engine.conventions import Status
from mrsi_engine.io.maps import export_maps
from mrsi_engine.io.result_quantities import parameters_of
from mrsi_engine.io.signals import export_signals
from mrsi_engine.io.tables import write_table
from mrsi_engine.quantities import Role
from mrsi_engine.report.compare import compare_with_lcmodel
from mrsi_engine.report.examples import SpectrumExample
from mrsi_engine.report.html import write_report
from mrsi_engine.report.truth import truth_table
from tests.report.synthetic import brain_result


class Page(HTMLParser):
    """Every tag with its attributes, the visible text, and tags left open."""

    VOID = ("meta", "img", "link", "br", "input", "hr")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += " " + " ".join(data.split())

    def images(self) -> list[str]:
        return [str(a["src"]) for tag, a in self.tags if tag == "img"]

    def ids(self) -> set[str]:
        return {str(a["id"]) for _, a in self.tags if "id" in a}


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    return brain_result((10, 10, 3), signals=True)


@pytest.fixture(scope="module")
def page(result: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Page:
    naa = result["estimate"].sel(parameter="NAA").values
    truth = truth_table({"NAA": naa}, {"NAA": np.full(naa.shape, 0.5)}, {"NAA": naa - 0.1})
    out = tmp_path_factory.mktemp("report") / "report.html"
    timings = {"import": 2.5, "process": 31.0}
    write_report(result, out, timings=timings, truth_table=truth, comparison=compared(result))
    return Page(out)


def compared(result: xr.Dataset):
    one = result.isel(voxel=np.flatnonzero(result["z"].values == 1))
    frames = []
    for label in ("NAA", "CrPCr"):
        ratio = one["estimate"].sel(parameter=label) / one["estimate"].sel(parameter="CrPCr")
        frames.append(
            pd.DataFrame(
                {"x": one["x"], "y": one["y"], "label": label, "name": label, "amplitude": 1.0,
                 "percent_sd": 4.0, "ratio": ratio}
            )
        )  # fmt: skip
    table = pd.concat(frames, ignore_index=True)
    table.attrs["reference"] = "CrPCr"
    return compare_with_lcmodel(result, table, z=1)


def test_nothing_is_fetched_from_anywhere(page: Page) -> None:
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert str(attrs.get(name, "#")).startswith(("data:", "#")), (tag, attrs)
        assert tag not in ("script", "iframe", "object", "link")
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy["content"])


def test_page_is_well_formed(page: Page) -> None:
    assert page.open == []
    anchors = {str(a["href"])[1:] for t, a in page.tags if t == "a"}
    assert anchors <= page.ids(), "a link leads nowhere"
    assert all(a.get("alt") for t, a in page.tags if t == "img")


def test_every_image_decodes(page: Page) -> None:
    for uri in page.images():
        head, content = uri.split(",", 1)
        data = b64decode(content)
        if "svg" in head:
            assert ElementTree.fromstring(data).tag.endswith("svg")
        else:
            assert data.startswith(b"\x89PNG")


def test_every_metabolite_has_both_maps_and_a_row(page: Page, result: xr.Dataset) -> None:
    names = [q.name for q in parameters_of(result) if q.role != Role.LINESHAPE]
    assert {f"map-{n}" for n in names} <= page.ids()
    alts = [a["alt"] for t, a in page.tags if t == "img"]
    assert sum(str(a).startswith("Relative CRLB of") for a in alts) == len(names)


def test_what_a_reader_needs_is_said(page: Page) -> None:
    for words in (
        "sub-01_ses-1", "10 × 10 × 3", "8 × 8 × 10 mm", "123.25 MHz", "30 ms", "1H",
        "the patient's right on the left", "made from the signal energy", "least squares",
        "press-3t-te30", "ab" * 32, "window_ppm", "0.5, 4.2", "31 s", "Best voxel", "Worst voxel",
        "RMSE / CRLB", "Pearson r", "1 voxel not processed", "1 voxel without a fit", "torch",
    ):  # fmt: skip
        assert words in page.text, words


def spectrum_axis(uri: str) -> list[tuple[float, float]]:
    """``(x, ppm)`` of the tick labels of a spectrum."""
    root = ElementTree.fromstring(b64decode(uri.split(",", 1)[1]))
    ticks = []
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        words = "".join(text.itertext()).strip()
        if words.replace(".", "").isdigit():
            ticks.append((float(text.get("x", "nan")), float(words)))
    return sorted(ticks)


def test_ppm_runs_from_right_to_left(page: Page) -> None:
    uris = [str(a["src"]) for t, a in page.tags if str(a.get("alt", "")).startswith("Spectrum")]
    assert len(uris) == 3
    for uri in uris:
        ppm = [value for _, value in spectrum_axis(uri)]
        assert len(ppm) >= 5
        assert ppm == sorted(ppm, reverse=True)


def test_given_examples_replace_the_stored(result: xr.Dataset, tmp_path: Path) -> None:
    ppm = np.linspace(4.5, 0, 200)
    peak = np.exp(-(((ppm - 2.01) / 0.05) ** 2))
    example = SpectrumExample("Lesion", (1, 2, 3), ppm, peak, peak, caption="mine")
    page = Page(write_report(result, tmp_path / "r.html", examples=[example]))
    assert "Lesion" in page.text
    assert "voxel (1, 2, 3) · mine" in page.text
    assert "Best voxel" not in page.text


def test_optional_sections_are_left_out(tmp_path: Path) -> None:
    result = brain_result((6, 6, 2)).sel(parameter=["NAA", "shift"])
    page = Page(write_report(result, tmp_path / "deep" / "r.html"))
    assert page.ids().isdisjoint({"truth", "lcmodel", "spectra"})
    assert "Timings" not in page.text


def test_text_from_files_cannot_become_markup(tmp_path: Path) -> None:
    result = brain_result((6, 6, 2)).sel(parameter=["NAA", "Tau"])
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    attrs = result.attrs
    attrs.update(
        stem=evil, source=evil, pipeline={"name": evil, "stages": [{"stage": evil, evil: evil}]}
    )
    names = [evil if n == "Tau" else n for n in result["parameter"].values.tolist()]
    page = Page(write_report(result.assign_coords(parameter=names), tmp_path / "r.html"))
    assert "script" not in {t for t, _ in page.tags}
    assert not any("onerror" in a for _, a in page.tags)
    assert evil.replace("  ", " ") in page.text


@pytest.mark.parametrize("status", [Status.NO_FIT, Status.NOT_PROCESSED])
def test_a_scan_without_any_fit_still_has_a_report(tmp_path: Path, status: Status) -> None:
    result = brain_result((6, 6, 2), signals=True).sel(parameter=["NAA", "CrPCr", "shift"])
    result["status"][:] = status
    for name in ("estimate", "sd", "quality"):
        result[name][:] = np.nan
    page = Page(write_report(result, tmp_path / "r.html"))
    assert "0 % of 32 in the mask" in page.text
    assert not re.search(r"\bnan\b", page.text)


def test_a_result_as_it_comes_from_disk(tmp_path: Path) -> None:
    memory = brain_result((6, 6, 2), signals=True)
    memory.to_zarr(tmp_path / "r.zarr", zarr_format=3, consolidated=False)
    stored = xr.open_zarr(
        tmp_path / "r.zarr", chunks=None, consolidated=False, mask_and_scale=False
    )
    assert len(export_maps(stored, tmp_path / "maps")) == 18 * 3 + 3 + 6 + 2
    assert len(export_signals(stored, tmp_path / "maps")) == 4
    assert write_table(stored, tmp_path / "v.parquet").exists()
    page = Page(write_report(stored, tmp_path / "r.html"))
    assert "map-NAANAAG" in page.ids()
    assert "Best voxel" in page.text


def test_bounds_of_filtered_data_are_not_to_be_trusted(tmp_path: Path) -> None:
    result = brain_result((6, 6, 2))
    assert "filtered or apodised" not in write_report(result, tmp_path / "a.html").read_text()
    result["quality"].loc[{"measure": "fit_quality"}] *= 500
    assert "filtered or apodised" in write_report(result, tmp_path / "b.html").read_text()


def test_notes_of_the_import_are_passed_on(tmp_path: Path) -> None:
    result = brain_result((6, 6, 2)).sel(parameter=["NAA"])
    result.attrs.update(notes=["water reference has another scale"], basis=None)
    page = Page(write_report(result, tmp_path / "r.html"))
    assert "water reference has another scale" in page.text


def test_what_computed_is_said(tmp_path: Path) -> None:
    result = brain_result((6, 6, 2))
    result.attrs["timings"] = [{"devices": {"NVIDIA H200": 3, "cpu": 1}}, {"devices": {"cpu": 2}}]
    assert "NVIDIA H200, cpu" in Page(write_report(result, tmp_path / "r.html")).text


def test_few_measures_suffice(tmp_path: Path) -> None:
    result = brain_result((6, 6, 2))
    few = result.sel(parameter=["NAA"]).isel(measure=[0])
    page = Page(write_report(few, tmp_path / "r.html"))
    assert "B0 shift" not in page.text


def test_thirty_metabolites_of_eight_slices_take_seconds(tmp_path: Path) -> None:
    result = brain_result((24, 24, 8), signals=True)
    metabolites = result.isel(parameter=slice(0, 15))
    twice = metabolites.assign_coords(parameter=[f"{n}2" for n in metabolites["parameter"].values])
    wide = xr.concat([metabolites, twice], "parameter", data_vars="minimal", coords="minimal",
                     compat="override", join="outer")  # fmt: skip
    assert wide.sizes["parameter"] == 30
    start = time.process_time()
    path = write_report(wide, tmp_path / "r.html")
    assert time.process_time() - start < 15
    assert path.stat().st_size < 8e6
