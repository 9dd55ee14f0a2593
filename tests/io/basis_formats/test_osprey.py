"""Osprey's .mat: written ones and broken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from mrsi_engine.errors import InputError
from mrsi_engine.io.basis_files import read_basis
from mrsi_engine.spectra.basis import Basis
from tests.io.basis_texts import osprey_struct


def test_it_reads_what_was_written(truth: Basis, tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "b.mat", {"BASIS": osprey_struct(truth)})
    basis = read_basis(tmp_path / "b.mat")
    assert (basis.names, basis.sequence) == (truth.names, "press")
    np.testing.assert_allclose(basis.fids, truth.fids, atol=1e-12)
    assert basis.acquisition.echo_time == pytest.approx(0.03)
    assert basis.acquisition.spectrometer_frequency == pytest.approx(123.23)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("reversed_axis", [False, True])
def test_the_axis_decides_the_sign(
    truth: Basis, tmp_path: Path, inverse: bool, reversed_axis: bool
) -> None:
    fids = truth.fids.T if inverse else truth.fids.conj().T
    transform = np.fft.ifft if inverse else np.fft.fft
    struct = osprey_struct(truth, fids=fids)
    struct["specs"] = np.fft.fftshift(transform(fids, axis=0), axes=0)
    if reversed_axis:
        struct |= {"fids": fids.conj(), "ppm": struct["ppm"][::-1]}
        struct["specs"] = np.fft.fftshift(transform(fids.conj(), axis=0), axes=0)
    scipy.io.savemat(tmp_path / "b.mat", {"BASIS": struct})
    np.testing.assert_allclose(read_basis(tmp_path / "b.mat").fids, truth.fids, atol=1e-12)


def test_without_spectra_it_is_ospreys_way(truth: Basis, tmp_path: Path) -> None:
    struct = osprey_struct(truth)
    del struct["specs"], struct["ppm"]
    scipy.io.savemat(tmp_path / "b.mat", {"BASIS": struct})
    np.testing.assert_allclose(read_basis(tmp_path / "b.mat").fids, truth.fids, atol=1e-12)


def test_water_is_left_out(truth: Basis, tmp_path: Path) -> None:
    names = np.array(["NAA", "H2O", "Ins"], dtype=object)
    scipy.io.savemat(tmp_path / "b.mat", {"BASIS": osprey_struct(truth, name=names)})
    basis = read_basis(tmp_path / "b.mat")
    assert basis.names == ("NAA", "Ins")
    assert "H2O" in " ".join(basis.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fids": np.ones((8, 3, 4), complex)}, "edited spectra"),
        ({"fids": np.array(["a", "b"])}, "no array of complex numbers"),
        ({"name": np.array(["NAA"], dtype=object)}, "1 names for 3 columns"),
        ({"dwelltime": 0.5}, r"ms: write 0\.0005"),
        ({"Bo": np.array([1.0, 2.0])}, "expected one number"),
        ({"te": 0.03}, "looks like s: write 30"),
    ],
)
def test_malformed_files_say_what_is_wrong(
    truth: Basis, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    scipy.io.savemat(tmp_path / "b.mat", {"BASIS": osprey_struct(truth, **changes)})
    with pytest.raises(InputError, match=message):
        read_basis(tmp_path / "b.mat")


def test_other_files_of_matlab(truth: Basis, tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "b.mat", {"x": 1})
    with pytest.raises(InputError, match="no struct BASIS"):
        read_basis(tmp_path / "b.mat")
    scipy.io.savemat(tmp_path / "b.mat", {"BASIS": {"fids": truth.fids.T}})
    with pytest.raises(InputError, match=r"BASIS\.name is missing"):
        read_basis(tmp_path / "b.mat")
    whole = (tmp_path / "b.mat").read_bytes()
    (tmp_path / "b.mat").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as a MATLAB file"):
        read_basis(tmp_path / "b.mat")
