"""Training of a network, on simulated signals or on those of a scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from mrsi_engine.choices import DEFAULT_PIPELINE
from mrsi_engine.conventions import Acquisition
from mrsi_engine.engine.devices import AUTO, check_device, device_here
from mrsi_engine.errors import InputError
from mrsi_engine.fit.calibration import calibrated
from mrsi_engine.io.result_store import RESULT_STORE, ResultStore, open_result
from mrsi_engine.io.scan_store import SCAN_STORE, ScanStore
from mrsi_engine.networks.kinds import Given, GivenBasis, GivenScan, RealSignals, network_kind
from mrsi_engine.networks.model import REPORT, Model, load_model, save_model
from mrsi_engine.networks.quantification import Recipe
from mrsi_engine.networks.recipe_files import RecipeFile
from mrsi_engine.networks.simulation import Simulator
from mrsi_engine.networks.training import TrainingProgress
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import Context
from mrsi_engine.report.training import write_training_report
from mrsi_engine.runs.bases import BasisChoice, load_basis, own_axis
from mrsi_engine.runs.folder import result_folder
from mrsi_engine.stages.quantify import Quantify


def train(
    folder: Path,
    recipe: RecipeFile,
    basis: BasisChoice | None,
    *,
    pipeline: Pipeline | None = None,
    scan: Path | None = None,
    start: str | None = None,
    resume: bool = False,
    device: str = AUTO,
    on_point: Callable[[TrainingProgress], None] | None = None,
) -> tuple[Model, TrainingProgress]:
    """Train a network and write it to a folder, with a report.

    Parameters
    ----------
    recipe
        Of any kind of network.
    basis
        May be left out where the recipe simulates without one.
    pipeline
        Whose fit the error bars of a quantification model are calibrated for, if its recipe asks
        for that; the default one if not given.
    scan
        Output folder of a run that kept its corrected signals, or a scan store without water, to
        learn from instead of simulated signals.
    start
        Folder or name of a model whose weights this one begins with.
    resume
        Go on from the folder's checkpoint.

    Raises
    ------
    InputError
        If recipe, basis, scan, start and folder do not go together.
    """
    check_device(device, here=True)
    here = device_here(device)
    given = Given(
        folder,
        _given_basis(basis),
        None if scan is None else GivenScan(str(scan), lambda: signals_to_learn(scan)),
        start,
        resume,
        here,
        on_point,
    )
    model, progress = network_kind(recipe.kind).train(recipe, given)
    if recipe.calibration_signals:
        model = calibrate(folder, pipeline or Pipeline.load(DEFAULT_PIPELINE), device=here)
    write_training_report(model.card, folder / REPORT)
    return model, progress


def _given_basis(choice: BasisChoice | None) -> GivenBasis | None:
    if choice is None:
        return None
    return GivenBasis(
        lambda: own_axis(choice), lambda axis: load_basis(choice, axis).matched_to(axis)
    )


def calibrate(folder: Path, pipeline: Pipeline, *, device: torch.device) -> Model:
    """Calibrate the error bars of a trained quantification model; its card keeps that.

    Parameters
    ----------
    folder
        Of the model; its recipe says how many signals.
    pipeline
        Whose fit the model is to be used in.

    Raises
    ------
    InputError
        If the pipeline does not quantify, or its fit is not for the model.
    """
    model = load_model(folder, "quantification")
    recipe, basis = Recipe.model_validate(model.card.recipe), model.basis
    found = next((s for s in pipeline.stages if isinstance(s, Quantify)), None)
    if found is None:
        raise InputError(
            f"pipeline {pipeline.name}: none of its stages quantifies, so there is no fit to "
            "calibrate error bars for"
        )
    stage = found.model_copy(update={"method": "network", "model": str(folder.resolve())})
    stage.check(Context(basis.acquisition, basis, device))
    unused = recipe.training.model_copy(update={"seed": recipe.training.seed + recipe.members})
    simulator = Simulator(recipe.simulation, basis, device)
    made = calibrated(stage, model.to(device), simulator, recipe.calibration, unused.seed_of(0))
    model = replace(model, card=model.card.model_copy(update={"calibration": made}))
    save_model(folder, model)
    return model


def signals_to_learn(path: Path) -> tuple[RealSignals, Acquisition]:
    """Signals ``(signal, time)`` without water of a run or a scan store, and their axis.

    Raises
    ------
    InputError
        If it is neither, or holds no such signals.
    """
    if SCAN_STORE.holds(path):
        store = ScanStore.open(path)
        if store.dimensions:
            raise InputError(
                f"{path}: its signals have dimensions {list(store.dimensions)}; run a pipeline "
                "that combines them with --keep corrected, and give that run's folder"
            )
        return RealSignals(store.read_fids(0, store.voxels), str(path)), store.acquisition
    if not RESULT_STORE.holds(result_folder(path)):
        raise InputError(f"{path}: neither the output folder of a run nor a scan store")
    result = open_result(result_folder(path))
    if "corrected" not in result:
        raise InputError(f"{path}: kept no corrected signals; run it again with --keep corrected")
    ResultStore.open(result_folder(path)).check()
    axis = Acquisition(**result.attrs["acquisition"])
    return RealSignals(result["corrected"].values, str(path)), axis
