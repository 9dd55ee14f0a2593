"""From coils and transients to one FID: combination, eddy currents, averaging, delay."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.ranges import OptionalStage
from mrsi_engine.pipeline.stage import Context
from mrsi_engine.stages.averaging import Averaging
from mrsi_engine.stages.coil_combination import CoilCombination
from mrsi_engine.stages.eddy_current import EddyCurrent
from mrsi_engine.stages.first_order_phase import FirstOrderPhase
from mrsi_engine.stages.fpc import FrequencyPhaseCorrection
from mrsi_engine.stages.quantify import Quantify
from tests.stages.passes import Scan, run

AXIS = Acquisition(1024, 0.4e-3, 123.25)
OPTIONAL = (CoilCombination, EddyCurrent, Averaging)


def line(ppm: float, damping: float = 12.0) -> np.ndarray:
    return np.exp((2j * np.pi * float(AXIS.frequency_of(ppm)) - damping) * AXIS.time)


BRAIN = 10 * line(2.01) + 7 * line(3.027) + 4 * line(3.21)


def white(*shape: int, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*shape, 2)).view(complex)[..., 0]


def tensor(fids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(fids, dtype=np.complex64))


def coil_scan(voxels: int = 6, transients: int = 8, with_water: bool = True) -> Scan:
    """Four coils with correlated noise of SDs 0.1 to 0.4, and their water."""
    rng = np.random.default_rng(0)
    gains = rng.uniform(0.5, 2, (voxels, 4, 1, 1)) * np.exp(
        2j * np.pi * rng.random((voxels, 4, 1, 1))
    )
    mixing = np.diag([0.1, 0.2, 0.3, 0.4]) + 0.05
    noise = np.einsum("cd,vdkt->vckt", mixing, white(voxels, 4, transients, AXIS.points))
    water = gains * 500 * line(4.65) + 0.1 * white(voxels, 4, 2, AXIS.points, seed=4)
    fids = tensor(gains * BRAIN + noise)
    return Scan(AXIS, fids, tensor(water) if with_water else None, dimensions=("coil", "dynamic"))


def snr(fids: torch.Tensor) -> float:
    spectra = np.abs(AXIS.spectrum(fids.numpy()))
    naa = spectra[..., (AXIS.ppm > 1.9) & (AXIS.ppm < 2.1)].max(-1)
    return float((naa / spectra[..., AXIS.ppm > 9].std(-1)).mean())


def test_combination_drops_coils_and_gains_snr():
    scan = coil_scan()
    done = run(CoilCombination(), scan)
    assert done.fids.shape == (6, 8, AXIS.points)
    assert done.water is not None
    assert done.water.shape == (6, 2, AXIS.points)
    best = max(snr(scan.fids[:, coil]) for coil in range(4))
    assert snr(done.fids) > 1.2 * best
    assert (done.measures["coil_quality"] > 0.99).all()


def test_combination_without_water_is_nearly_as_good():
    alone = snr(run(CoilCombination(), coil_scan(with_water=False)).fids)
    assert alone > 0.95 * snr(run(CoilCombination(), coil_scan()).fids)


def test_voxels_without_water_are_combined_by_themselves():
    scan = coil_scan()
    scan.water[2] = 0
    done = run(CoilCombination(), scan)
    own = run(CoilCombination(), coil_scan(with_water=False))
    torch.testing.assert_close(done.fids[2], own.fids[2])


def test_combination_does_not_depend_on_the_block():
    whole, single = (run(CoilCombination(), coil_scan(), size).fids for size in (100, 1))
    torch.testing.assert_close(single, whole, rtol=1e-4, atol=1e-4)


def test_a_dead_coil_is_named():
    scan = coil_scan()
    scan.fids[:, 2] = 0
    with pytest.raises(InputError, match="coil 2"):
        run(CoilCombination(), scan)


def test_a_reference_of_other_coils_is_refused():
    scan = coil_scan()
    with pytest.raises(InputError, match="3 coils"):
        run(CoilCombination(), Scan(AXIS, scan.fids, scan.water[:, :3], dimensions=scan.dimensions))


def eddied(transients: int = 4) -> tuple[Scan, np.ndarray]:
    """Voxels whose phase decays in from 60 degrees, with a B0 offset each; the course."""
    offset = np.array([3.0, -5.0, 0.0])[:, None]
    course = np.exp(1j * (np.exp(-AXIS.time / 0.03) + 2 * np.pi * offset * AXIS.time))
    water = 1e4 * line(4.65) * course + white(3, AXIS.points, seed=1)
    fids = np.repeat((BRAIN * course)[:, None], transients, 1)
    return Scan(AXIS, tensor(fids), tensor(water)[:, None], dimensions=("dynamic",)), course


def test_eddy_currents_go_with_the_waters_phase():
    scan, _ = eddied()
    done = run(EddyCurrent(), scan)
    trusted = (done.measures["eddy_trusted"][0] * AXIS.points).int()
    assert trusted > 300
    np.testing.assert_allclose(done.fids[1, 2, :300], BRAIN[:300], atol=0.05)
    assert np.abs(np.angle(done.water[0, 0, :300].numpy())).max() < 0.01


def test_voxels_without_water_are_left_alone():
    scan, _ = eddied()
    scan.water[1] = 0
    done = run(EddyCurrent(), scan)
    assert torch.equal(done.fids[1], scan.fids[1])
    assert done.measures["eddy_trusted"][1] == 0


def test_a_shorter_reference_is_refused():
    scan, _ = eddied()
    with pytest.raises(InputError, match="512 points"):
        run(EddyCurrent(), Scan(AXIS, scan.fids, scan.water[..., :512], dimensions=("dynamic",)))


def test_averaging_drops_outliers_and_gains_the_root():
    fids = BRAIN + 0.1 * white(5, 16, AXIS.points)
    fids[0, 3] = 40 * line(1.3, 30) * 1j
    done = run(Averaging(), Scan(AXIS, tensor(fids), dimensions=("dynamic",)))
    assert done.fids.shape == (5, AXIS.points)
    assert float(done.measures["transients_kept"][0]) == pytest.approx(15 / 16)
    assert (done.measures["transient_similarity"] > 0.95).all()
    rest = done.fids.numpy()[1:] - BRAIN
    kept = done.measures["transients_kept"][1:].mean() * 16
    assert rest.std() / math.sqrt(2) == pytest.approx(0.1 / math.sqrt(kept), rel=0.05)


def test_averaging_without_rejection_is_the_mean():
    fids = tensor(BRAIN + white(2, 5, AXIS.points))
    done = run(Averaging(reject=False), Scan(AXIS, fids, dimensions=("dynamic",)))
    torch.testing.assert_close(done.fids, fids.mean(1))


def test_raw_transients_to_one_fid():
    """All steps in a row: as good as the best combination and average of four coils."""
    rng = np.random.default_rng(2)
    drift = np.exp(2j * np.pi * rng.uniform(-4, 4, (6, 1, 8, 1)) * AXIS.time)
    clean = coil_scan()
    moved = Scan(AXIS, clean.fids * tensor(drift), clean.water, dimensions=clean.dimensions)
    fpc = FrequencyPhaseCorrection(max_shift_hz=30)
    stages = (CoilCombination(), EddyCurrent(), fpc, Averaging())
    steady, straight = run(stages, clean), run(stages, moved)
    assert straight.fids.shape == (6, AXIS.points)
    assert straight.water is not None
    assert straight.water.shape == (6, AXIS.points)
    assert snr(straight.fids) == pytest.approx(snr(steady.fids), rel=0.05)
    assert (straight.measures["fpc_shift_spread"] > 1).all()


@pytest.mark.parametrize("stage", OPTIONAL)
def test_what_a_scan_lacks_is_refused_or_passed_over(stage: type[OptionalStage]):
    scan = Scan(AXIS, tensor(BRAIN + white(3, AXIS.points)))
    with pytest.raises(InputError, match="optional = true"):
        stage().check(scan.context)
    done = run(stage(optional=True), scan)
    assert torch.equal(done.fids, scan.fids)
    assert not done.measures


@pytest.mark.parametrize(
    ("stage", "dimensions"),
    [(EddyCurrent, ("coil",)), (Averaging, ("coil", "dynamic")), (Quantify, ("dynamic",))],
)
def test_dimensions_must_have_gone(stage, dimensions):
    with pytest.raises(InputError, match=r"coil_combination|basis"):
        stage().check(Context(AXIS, dimensions=dimensions, companions=("water",)))


def test_delay_is_turned_back():
    """Gaussian lines that are gone at both ends, sampled 0.5 ms late."""
    bell = np.exp(-(((AXIS.time - 0.2) / 0.04) ** 2))
    early = np.exp(-(((AXIS.time + 0.5e-3 - 0.2) / 0.04) ** 2))
    hertz = AXIS.frequency_of(2.01)
    late = early * np.exp(2j * np.pi * hertz * (AXIS.time + 0.5e-3))
    done = run(FirstOrderPhase(delay=0.5e-3), Scan(AXIS, tensor(late[None])))
    np.testing.assert_allclose(
        done.fids[0], bell * np.exp(2j * np.pi * hertz * AXIS.time), atol=1e-4
    )


def test_missing_points_are_predicted():
    late = np.concatenate([BRAIN[2:], [0, 0]])
    done = run(FirstOrderPhase(delay=0.8e-3, method="predict"), Scan(AXIS, tensor(late[None])))
    np.testing.assert_allclose(done.fids[0, :10], BRAIN[:10], rtol=1e-3)
    assert done.fids.shape == (1, AXIS.points)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delay": 0.5e-3, "method": "predict"}, "1.25 samples"),
        ({"delay": 0.4e-3, "method": "predict", "order": 256}, None),
        ({"delay": -0.4e-3, "method": "predict"}, "at least 1"),
    ],
)
def test_delays_that_cannot_be_predicted_are_refused(settings, message):
    stage = FirstOrderPhase(**settings)
    if message is None:
        with pytest.raises(InputError, match="768 samples"):
            stage.check(Context(AXIS.with_points(512)))
    else:
        with pytest.raises(InputError, match=message):
            stage.check(Context(AXIS))


@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_coils_that_differ_in_frequency_are_transients(spread):
    """With an SD of 3 Hz three in four of 8 are more than 1 Hz from their median."""
    hertz = spread * np.random.default_rng(2).standard_normal((2, 8, 1))
    fids = BRAIN * np.exp(2j * np.pi * hertz * AXIS.time) + 0.1 * white(2, 8, AXIS.points, seed=3)
    scan = Scan(AXIS, tensor(fids), dimensions=("coil",))
    if spread == 0:
        assert run(CoilCombination(), scan).fids.shape == (2, AXIS.points)
        return
    with pytest.raises(InputError, match=r"differ in frequency by [23]\.\d Hz .*DIM_DYN"):
        run(CoilCombination(), scan)
    assert run(CoilCombination(max_apart_hz=20), scan).fids.shape == (2, AXIS.points)
