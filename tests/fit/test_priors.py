"""Tables of priors: what a file may say and what of it a basis takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mrsi_engine.errors import InputError
from mrsi_engine.fit.priors import PriorTable
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import Context
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.stages import Quantify
from tests.scenes import press_basis

RATIO = '[[prior]]\nof = "NAAG"\nto = "NAA"\nmean = 0.2\nsd = 0.1\n'


def table(*priors: dict, optional: bool = False) -> PriorTable:
    return PriorTable.model_validate({"prior": priors, "optional": optional})


def test_rows_of_amounts_ratios_and_sums():
    basis = press_basis().select(["Cr", "PCr", "NAA", "Lac", "GPC"])
    priors = table(
        {"of": "Lac", "mean": 0.8, "sd": 0.4},
        {"of": "NAA", "to": "tCr", "mean": 1.2, "sd": 0.3},
        {"of": "GPC", "to": {"NAA": 1, "Cr": 2}, "mean": 0.1, "sd": 0.05},
    ).on(basis)
    at = {name: basis.names.index(name) for name in basis.names}
    assert priors.rows[0].nonzero().tolist() == [[at["Lac"]]]
    assert priors.rows[1, [at["NAA"], at["Cr"], at["PCr"]]].tolist() == [1.0, -1.2, -1.2]
    assert priors.rows[2, [at["GPC"], at["NAA"], at["Cr"]]].tolist() == [1.0, -0.1, -0.2]
    assert priors.mean.tolist() == [0.8, 0.0, 0.0]
    assert priors.reference[2, [at["NAA"], at["Cr"]]].tolist() == [1.0, 2.0]


def test_a_metabolite_may_be_part_of_what_it_is_divided_by():
    basis = press_basis().select(["Gln", "GSH"])
    priors = table({"of": "GSH", "to": {"Gln": 1, "GSH": 1}, "mean": 0.3, "sd": 0.1}).on(basis)
    # GSH / (Gln + GSH) is 0.3 where 0.7 GSH = 0.3 Gln.
    truth = torch.tensor([7.0 if n == "Gln" else 3.0 for n in basis.names]).double()
    assert (priors.rows @ truth).abs().item() < 1e-12


def test_the_shipped_table_takes_what_a_basis_has():
    default = PriorTable.default()
    assert {"NAAG", "GABA", "Tau"} <= set(default.constrained(press_basis()))
    assert "MM20" not in default.constrained(press_basis())
    lines = Quantify(macromolecules={"source": "lines"}).fitted_basis(press_basis())
    assert {"MM12", "MM20"} <= set(default.constrained(lines))
    few = press_basis().select(["NAA", "NAAG", "Cr", "Asp"])
    reference = default.on(few).reference[1]
    assert reference.tolist() == [float(n in ("NAA", "NAAG", "Cr")) for n in few.names]


def test_nothing_that_applies_is_refused():
    with pytest.raises(InputError, match="no prior on anything in the basis"):
        PriorTable.default().constrained(press_basis().select(["NAA", "Cr"]))


def test_unknown_names_are_refused_unless_optional():
    prior = {"of": "NAAG", "to": "NAAA", "mean": 0.15, "sd": 0.15}
    with pytest.raises(InputError, match=r"priors name \['NAAA'\], which are not fitted"):
        table(prior).on(press_basis())
    known = {"of": "Lac", "mean": 0.8, "sd": 0.4}
    assert table(prior, known, optional=True).constrained(press_basis()) == ("Lac",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RATIO.replace("sd = 0.1", "sd = 0.0"), r"prior\.0\.sd: .*greater than 0, found 0\.0"),
        (RATIO.replace("sd = 0.1", "sd = nan"), r"prior\.0\.sd: .*finite"),
        (RATIO.replace("mean", "centre"), r"prior\.0\.mean: Field required"),
        (RATIO + RATIO, r"more than one prior of \['NAAG'\]"),
        ("optional = true\n", "prior: Field required"),
        ("[[prior]\n", "not valid TOML"),
    ],
)
def test_wrong_files_are_refused_by_file_and_key(tmp_path, text, message):
    file = tmp_path / "priors.toml"
    file.write_text(text)
    settings = {"name": "own", "stages": [{"stage": "quantify", "priors": str(file)}]}
    with pytest.raises(InputError, match=message) as caught:
        Pipeline.from_settings(settings)
    assert "priors.toml" in str(caught.value)


def test_a_missing_file_is_said():
    with pytest.raises(ValidationError, match='no such file of priors; give a TOML file or "def'):
        Quantify(priors="nowhere.toml")


def test_the_pipeline_keeps_the_content_of_the_file(tmp_path):
    file = tmp_path / "priors.toml"
    file.write_text(RATIO)
    settings = {"name": "own", "stages": [{"stage": "quantify", "priors": str(file)}]}
    pipeline = Pipeline.from_settings(settings)
    file.unlink()
    again = Pipeline.from_settings(pipeline.settings())
    assert again == pipeline
    stage = again.stages[0]
    assert isinstance(stage, Quantify)
    assert stage.prior_table.prior[0].to == {"NAA": 1.0}


def test_estimators_must_differ():
    with pytest.raises(ValidationError, match="name one estimator, or several that differ"):
        Quantify(amplitudes=("map", "map"))


def test_map_needs_priors_that_fit_the_basis():
    axis = press_basis().acquisition
    line = np.exp((2j * np.pi * axis.frequency_of(2.0) - 5) * axis.time)
    basis = Basis(("Xyz",), line[None], axis)
    with pytest.raises(InputError, match="no prior on anything"):
        Quantify(amplitudes="map").check(Context(axis, basis))
