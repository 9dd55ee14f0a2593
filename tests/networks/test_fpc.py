"""Networks for frequency and phase correction: training, model folders, the command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from mrsi_engine import cli
from mrsi_engine.cli.output import TrainingBar
from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.networks.encoders import DenseSettings
from mrsi_engine.networks.fpc import (
    TEMPLATE,
    Corrector,
    FpcInput,
    FpcRecipe,
    averaged,
    split,
    train_fpc,
)
from mrsi_engine.networks.fpc_decoders import FpcDecoderSettings, FpcKind
from mrsi_engine.networks.fpc_signals import (
    MixtureSettings,
    MixtureSource,
    Transients,
    TransientSettings,
    TransientSource,
)
from mrsi_engine.networks.model import Model, load_model
from mrsi_engine.networks.simulation import SimulationSettings, Simulator
from mrsi_engine.networks.training import CHECKPOINT, TrainingProgress, TrainingSettings
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.fpc_simulation import RAT_BRAIN

SIMULATION = TransientSettings(shift_hz=10, phase_deg=60)


def recipe_of(kind: FpcKind = "dSR", steps: int = 4, **settings: object) -> FpcRecipe:
    window = (1.9, 4.2) if kind == "projected" else (2.5, 3.5)
    return FpcRecipe(
        name="tiny",
        input=FpcInput(points=256),
        encoder=DenseSettings(widths=(64,)),
        decoder=FpcDecoderSettings(kind=kind, points=256, shift_hz=15, window_ppm=window),
        simulation=SIMULATION,
        training=TrainingSettings(
            steps=steps, batch=32, validate_every=2 if steps < 10 else 50, validation=32, seed=1
        ),
    ).model_copy(update=settings)


@dataclass(frozen=True, eq=False)
class Few(TransientSource):
    """The same few signals whatever the seed."""

    settings: TransientSettings = field(default=SIMULATION)

    def draw(self, count: int, seed: int, points: int | None = None) -> Transients:
        if (count, points) not in self._drawn:
            self._drawn[count, points] = super().draw(min(count, 128), 0, points)
        return self._drawn[count, points]

    @cached_property
    def _drawn(self) -> dict[tuple[int, int | None], Transients]:
        return {}


FEW = Few()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("trained") / "model"
    return train_fpc(recipe_of("projected"), TransientSource(SIMULATION), folder)[0]


@pytest.mark.parametrize("kind", ["dCrR", "dCrRF", "dSR", "dSRF", "projected"])
def test_a_tiny_network_learns_32_signals_without_labels(kind: FpcKind, tmp_path: Path) -> None:
    model, progress = train_fpc(recipe_of(kind, steps=150), FEW, tmp_path / "model")
    made = FEW.draw(32, 0, 256)
    shift, phase = Corrector.of(model).predict(made.fids)
    # 5.8 Hz and 35 degrees (uniform) before; least squares leaves 0.8 to 1.7 Hz by kind.
    assert (shift - made.shift).std() < 2.5
    apart = torch.exp(1j * (phase - made.phase))
    assert (apart / apart.mean()).angle().std() < np.radians(20)
    assert progress.curve[-1].training < progress.curve[0].training


def test_saving_and_loading_changes_nothing(model: Model) -> None:
    fids = TransientSource(SIMULATION).draw(50, 7).fids
    back = Corrector.of(load_model(model.source, "fpc"))
    for first, second in zip(Corrector.of(model).predict(fids), back.predict(fids), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    # In batches, and where a signal is lost.
    fids[3] = torch.nan
    for first, second in zip(back.predict(fids, batch=7), back.predict(fids), strict=True):
        assert first.isnan().nonzero().flatten().tolist() == [3]
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_scale_and_units_of_signals_do_not_matter(model: Model) -> None:
    fids, corrector = TransientSource(SIMULATION).draw(20, 8).fids, Corrector.of(model)
    for first, second in zip(corrector.predict(fids), corrector.predict(3e5 * fids), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_a_scan_it_is_not_for_is_refused(model: Model) -> None:
    assert model.check_scan(RAT_BRAIN) is model
    with pytest.raises(InputError, match="the model is for points 1980, the scan has 1024"):
        model.check_scan(RAT_BRAIN.with_points(1024))
    with pytest.raises(InputError, match=r"spectrometer_frequency 400\.32.*the scan has 123\.2"):
        model.check_scan(Acquisition(1980, RAT_BRAIN.dwell_time, 123.2, 4.7))
    with pytest.raises(InputError, match="kind is 'quantification', expected a model for 'fpc'"):
        Corrector.of(load_model("press-3t-te30"))


def test_the_template_is_the_spectrum_without_noise() -> None:
    source = TransientSource(TransientSettings(water_share=0, lipid_share=0))
    template, true = averaged(source, 3).numpy(), source._spectrum
    # Aligned and damped by 2/s, as all signals are: 512 of them leave a 23rd of the noise.
    time = RAT_BRAIN.time
    shifts = np.linspace(-4, 4, 81)
    damped = true * np.exp(-2 * time)
    products = np.abs(np.exp(-2j * np.pi * np.outer(shifts, time)) @ (template * damped.conj()))
    likeness = products.max() / np.linalg.norm(template) / np.linalg.norm(damped)
    assert likeness > 0.99
    # Creatine's line, with its neighbours' tails under it, sets the frame.
    assert abs(shifts[products.argmax()]) < 2.5


def test_noise_of_what_is_seen_and_what_is_compared_is_independent() -> None:
    """Of each draw twice, with noise and without: what differs is noise."""
    noisy, quiet = (
        TransientSource(TransientSettings(water_share=0, lipid_share=0, noise_sd=sd))
        for sd in (0.2, 1e-9)
    )
    made, clean = noisy.draw(200, 5, 256), quiet.draw(200, 5, 256)
    true = clean.fids * (made.noise_sd / clean.noise_sd * 1e-9 / 0.2)[:, None]
    pair = split(made, 0.5, 5)
    unit = made.noise_sd[:, None]
    seen, compared = (pair.seen - true) / unit, (pair.compared - true) / unit
    count = seen.numel()
    for noise, variance in ((seen, 1 + 0.5**2), (compared, 1 + 0.5**-2)):
        found = noise.abs().square().mean().item() / 2
        assert found == pytest.approx(variance, rel=4 / np.sqrt(count))
    product = (seen.conj() * compared).mean().abs().item() / 2
    assert product < 4 * np.sqrt(1.25 * 5 / count)


def test_mixtures_are_those_of_quantification(basis: Basis, settings: SimulationSettings) -> None:
    source = MixtureSource(MixtureSettings(**settings.model_dump()), basis)
    made, again = Simulator(settings, basis).draw(20, 4), source.draw(20, 4)
    torch.testing.assert_close(again.fids, made.fids)
    torch.testing.assert_close(again.shift, made.theta[:, 1])
    torch.testing.assert_close(again.phase, made.theta[:, 0])
    short = source.draw(20, 4, 100)
    assert short.fids.shape == (20, 100)
    torch.testing.assert_close(short.shift, again.shift)


TINY = """
kind = "fpc"
name = "tiny"
input = {points = 256}
encoder = {kind = "dense", widths = [8]}
decoder = {kind = "dSRF", points = 256}
simulation = {kind = "transients"}
training = {steps = 4, batch = 8, validate_every = 2, validation = 8}
"""

Train = Callable[..., str]


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    """``mrsi train`` with a tiny recipe; standard output, or the error of a refusal."""
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)

    def call(*extra: str, refused: bool = False) -> str:
        given = {"--recipe": recipe, "--out": tmp_path / "model"}
        given = {name: value for name, value in given.items() if name not in extra}
        arguments = ["train", *(str(part) for pair in given.items() for part in pair), *extra]
        if not refused:
            cli.main(arguments)
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 2
        return capsys.readouterr().err

    return call


def test_the_command_trains_stops_and_goes_on(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object, progress: TrainingProgress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBar, "__call__", stop)
        with pytest.raises(SystemExit) as ended:
            train()
    assert ended.value.code == 130
    assert list((tmp_path / "model").glob(f"*/{CHECKPOINT}"))
    assert "go on with --resume" in train(refused=True)
    said = train("--resume")
    assert "tiny, 4 steps" in said
    assert "sd shift" in said
    resumed = load_model(tmp_path / "model", "fpc")
    assert resumed.tensors[TEMPLATE].shape == (1980,)
    train("--out", str(tmp_path / "whole"))
    whole = load_model(tmp_path / "whole", "fpc")
    for name, weights in whole.encoder.state_dict().items():
        torch.testing.assert_close(weights, resumed.encoder.state_dict()[name], rtol=0, atol=0)
    assert "holds a trained model" in train(refused=True)


def test_what_does_not_go_together_is_refused(train: Train, tmp_path: Path) -> None:
    assert "leave out --basis" in train("--basis", "press-3t-te30", refused=True)
    assert "leave out --scan" in train("--scan", str(tmp_path), refused=True)
    assert "leave out --start" in train("--start", "press-3t-te30", refused=True)
    shipped = train("--recipe", "fpc-press-3t-te30", refused=True)
    assert "recipe fpc-press-3t-te30: simulates signals from a basis; give it" in shipped
    assert "needs a basis; give it with --basis" in train("--recipe", "press-3t-te30", refused=True)
    assert "no checkpoint" in train("--resume", refused=True)
    assert not (tmp_path / "model").exists()
