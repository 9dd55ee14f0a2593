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
from mrsi_engine.io.result_store import is_result_store, open_result
from mrsi_engine.io.scan_store import ScanStore, is_scan_store
from mrsi_engine.networks.fpc import FpcRecipe, train_fpc
from mrsi_engine.networks.fpc_signals import MixtureSettings, MixtureSource, Source, TransientSource
from mrsi_engine.networks.model import REPORT, Model, load_model, save_model
from mrsi_engine.networks.quantifier import RealSignals, Recipe, train_quantifier
from mrsi_engine.networks.recipes import AnyRecipe
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
    recipe: AnyRecipe,
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
        For quantification, or for frequency and phase correction.
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
    if isinstance(recipe, FpcRecipe):
        source = _fpc_source(recipe, basis, scan, start)
        model, progress = train_fpc(
            recipe, source, folder, resume=resume, device=here, on_point=on_point
        )
    else:
        model, progress = _train_quantifier(
            folder, recipe, basis, scan, start, resume=resume, device=here, on_point=on_point
        )
        if recipe.calibration:
            model = calibrate(folder, pipeline or Pipeline.load(DEFAULT_PIPELINE), device=here)
    write_training_report(model.card, folder / REPORT)
    return model, progress


def _train_quantifier(
    folder: Path,
    recipe: Recipe,
    basis: BasisChoice | None,
    scan: Path | None,
    start: str | None,
    *,
    resume: bool,
    device: torch.device,
    on_point: Callable[[TrainingProgress], None] | None,
) -> tuple[Model, TrainingProgress]:
    if basis is None:
        raise InputError(f"recipe {recipe.name}: needs a basis; give it with --basis")
    begun = None if start is None else load_model(start, "quantification")
    if scan is None:
        signals, axis = None, recipe.axis.of(own_axis(basis))
    else:
        signals, axis = _signals_to_learn(scan)
    fitted = load_basis(basis, axis).matched_to(axis)
    return train_quantifier(
        recipe,
        fitted,
        folder,
        scan=signals,
        start=begun,
        resume=resume,
        device=device,
        on_point=on_point,
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


def _fpc_source(
    recipe: FpcRecipe, basis: BasisChoice | None, scan: Path | None, start: str | None
) -> Source:
    settings = recipe.simulation
    for option, given in (("--scan", scan), ("--start", start)):
        if given is not None:
            raise InputError(
                f"{given}: recipe {recipe.name} is for frequency and phase correction, which is "
                f"learned from simulated signals and from the beginning; leave out {option}"
            )
    if not isinstance(settings, MixtureSettings):
        if basis is not None:
            raise InputError(
                f"recipe {recipe.name}: simulates a spectrum of its own; leave out --basis"
            )
        return TransientSource(settings)
    if basis is None:
        raise InputError(
            f"recipe {recipe.name}: simulates signals from a basis; give it with --basis"
        )
    axis = recipe.axis.of(own_axis(basis))
    return MixtureSource(settings, load_basis(basis, axis).matched_to(axis))


def _signals_to_learn(path: Path) -> tuple[RealSignals, Acquisition]:
    if is_scan_store(path):
        store = ScanStore.open(path)
        if store.dimensions:
            raise InputError(
                f"{path}: its signals have dimensions {list(store.dimensions)}; run a pipeline "
                "that combines them with --keep corrected, and give that run's folder"
            )
        return RealSignals(store.read_fids(0, store.voxels), str(path)), store.acquisition
    if not is_result_store(result_folder(path)):
        raise InputError(f"{path}: neither the output folder of a run nor a scan store")
    result = open_result(result_folder(path))
    if "corrected" not in result:
        raise InputError(f"{path}: kept no corrected signals; run it again with --keep corrected")
    axis = Acquisition(**result.attrs["acquisition"])
    return RealSignals(result["corrected"].values, str(path)), axis
