"""Tables of nuclei: complete, consistent, and read without anything heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import known_nuclei, nucleus
from mrsi_engine.nuclei.nuclei import Nucleus
from mrsi_engine.spectra.spin_systems import spin_systems

#: Spellings by program, and what is meant.
SPELLINGS = {
    "Vespa": {
        "n-acetylaspartate": "NAA",
        "n-acetylaspartylglutamate": "NAAG",
        "creatine": "Cr",
        "phosphocreatine": "PCr",
        "glycerophosphocholine": "GPC",
        "phosphorylcholine": "PCh",
        "myo-inositol": "Ins",
        "scyllo-inositol": "sIns",
        "glutamate": "Glu",
        "glutamine": "Gln",
        "glutathione": "GSH",
        "taurine": "Tau",
        "phosphorylethanolamine": "PE",
        "ascorbate": "Asc",
        "gamma-aminobutyric acid": "GABA",
    },
    "Osprey": {"mI": "Ins", "sI": "sIns", "bHG": "2HG", "bHB": "bHB", "PE": "PE", "Ser": "Ser"},
    "LCModel": {"Scyllo": "sIns", "PCho": "PCh", "Gua": "Gua", "-CrCH2": "-CrCH2", "MM09": "MM09"},
    "FID-A": {"Ins": "Ins", "Scyllo": "sIns", "Phenyl": "Phe", "EtOH": "EtOH"},
    "MRSCloud": {"GABA": "GABA", "Gaba": "GABA", "gaba": "GABA", "mIns": "Ins", "AscA": "Asc"},
    "jMRUI": {"Cre": "Cr", "Gluc": "Glc", "Glc_alpha": "aGlc", "Mac": "MM", " NAA ": "NAA"},
}


@pytest.mark.parametrize("program", SPELLINGS)
def test_spellings_of_every_program_are_known(program: str) -> None:
    proton = nucleus("1H")
    found = {given: proton.canonical_name(given) for given in SPELLINGS[program]}
    assert found == SPELLINGS[program]


def test_spellings_of_other_nuclei() -> None:
    phosphorus = nucleus("31P")
    meant = {"γ-ATP": "gATP", "ATP_beta": "bATP", "NAD+": "NAD", "PCho": "PC", "ePi": "Piex"}
    assert {given: phosphorus.canonical_name(given) for given in meant} == meant
    assert nucleus("2H").canonical_name("Water") == "HDO"
    assert nucleus("1H").canonical_name("Water") == "H2O"


@pytest.mark.parametrize("symbol", known_nuclei())
def test_every_spelling_comes_back_as_its_name(symbol: str) -> None:
    table = nucleus(symbol)
    for name, others in table.names.items():
        for spelling in (name, *others):
            for written in (spelling, spelling.upper(), spelling.replace("-", "_"), f" {spelling}"):
                assert table.canonical_name(written) == name


@pytest.mark.parametrize("symbol", known_nuclei())
def test_tables_agree_with_themselves(symbol: str) -> None:
    table = nucleus(symbol)
    low, high = table.windows.signal
    assert low <= min(table.windows.fit) < max(table.windows.fit) <= high
    for mark in table.landmarks:
        assert low < mark.ppm < high
        assert mark.tolerance < table.landmark_search
        assert not table.is_macromolecule(mark.name)
    labels = {s.label for s in table.sums} | set(table.names)
    assert {*table.outliers, *table.principal, table.ratio_to} <= labels
    assert all(label.isalnum() for label in labels)  # they stand in BIDS names


@pytest.mark.parametrize("symbol", ["1H", "31P", "2H"])
def test_what_is_simulated_has_spins_at_its_landmark(symbol: str) -> None:
    table, systems = nucleus(symbol), spin_systems(symbol)
    assert set(table.simulated) <= set(systems)
    for mark in table.landmarks_among(systems):
        shifts = [ppm for group in systems[mark.name].groups for ppm in group.shifts_ppm]
        assert min(abs(ppm - mark.ppm) for ppm in shifts) < mark.tolerance


def test_sums_and_titles() -> None:
    proton, phosphorus = nucleus("1H"), nucleus("31P")
    assert [s.label for s in proton.sums_of(["NAA", "NAAG", "Cr"])] == ["NAANAAG"]
    assert proton.title_of("GPCPCh") == "tCho"
    assert proton.title_of("Ins") == "Ins"
    assert proton.members_of("tCr") == ("Cr", "PCr")
    assert proton.members_of("mI") == ("Ins",)
    assert phosphorus.members_of("PDE") == ("GPE", "GPC")


def test_an_unknown_nucleus_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"23Na.*1H, 13C, 19F, 2H, 31P.*ResonantNucleus"):
        nucleus("23Na")


def test_what_a_nucleus_lacks_is_said_with_its_pipeline() -> None:
    with pytest.raises(InputError, match=r"stage 'x': there is no water.*31P.*brain-31p-7t"):
        nucleus("31P").water_for("stage 'x'")
    with pytest.raises(InputError, match="no lipids of the scalp in 2H"):
        nucleus("2H").lipids_for("stage 'x'")


def test_the_reference_of_an_axis_is_its_nucleus() -> None:
    assert Acquisition(64, 1e-3, 123.2).reference_ppm == 4.65
    assert Acquisition(64, 1e-3, 49.9, nucleus="31P").reference_ppm == 0.0
    with pytest.raises(ValueError, match="must be stated for 13C"):
        Acquisition(64, 1e-3, 30.0, nucleus="13C")
    assert Acquisition(64, 1e-3, 30.0, 171.0, nucleus="13C").reference_ppm == 171.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": {"A": ("b",), "B": ()}}, "'b' is B and A"),
        ({"reference_peaks": ("Ins",)}, "reference_peaks"),
        ({"simulated": ("Foo",)}, "'Foo' is not among the names"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Nucleus.model_validate({**nucleus("1H").model_dump(), **change})


def test_the_room_is_light() -> None:
    code = (
        "import sys; from mrsi_engine.nuclei import nucleus; nucleus('31P'); "
        "print([m for m in ('torch', 'scipy', 'xarray', 'zarr', 'nibabel') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
