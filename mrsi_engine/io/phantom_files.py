"""A phantom as the files a scanner and a segmentation would give, and its truth beside them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.io.files import make_folder
from mrsi_engine.io.nifti_mrs import write_nifti_mrs, write_volume
from mrsi_engine.io.places import place
from mrsi_engine.spectra.phantom import Phantom

#: Voxel size, mm.
VOXEL_SIZE = (10.0, 10.0, 12.0)

#: Rotations about x and z, degrees: oblique, as a brain slab is planned, so that a mixed-up axis
#: or a dropped affine shows.
TILT = (-12.0, 5.0)


def phantom_affine(shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Voxel index to scanner coordinates (mm), ``(4, 4)``; the grid's middle is the isocentre."""
    affine = np.eye(4)
    affine[:3, :3] = _rotation(*TILT) @ np.diag(VOXEL_SIZE)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def write_phantom(phantom: Phantom, folder: str | Path) -> dict[str, Path]:
    """Write the scan, its water reference, masks, tissue fractions and truth.

    Parameters
    ----------
    phantom
        From :func:`mrsi_engine.spectra.phantom.make_phantom`.
    folder
        Made if missing; files of the same name are replaced.

    Returns
    -------
    dict
        ``scan``, ``water``, ``mask``, ``scalp``, ``gm``, ``wm``, ``csf``, ``lesion`` and
        ``truth/<label>`` to the files of those names with ``.nii.gz``.

    Raises
    ------
    RunError
        If a file cannot be written.
    """
    folder = place(folder)
    make_folder(folder / "truth")
    affine = phantom_affine(phantom.settings.shape)
    maps = {
        "mask": phantom.mask,
        "scalp": phantom.scalp,
        **{name: share.astype(np.float32) for name, share in phantom.tissue.items()},
        "lesion": phantom.lesion.astype(np.float32),
        **{f"truth/{n}": values.astype(np.float32) for n, values in phantom.truth.items()},
    }
    fids = {"scan": phantom.fids, "water": phantom.water}
    written = {
        name: write_nifti_mrs(folder / f"{name}.nii.gz", data, phantom.acquisition, affine)
        for name, data in fids.items()
    }
    for name, values in maps.items():
        written[name] = write_volume(folder / f"{name}.nii.gz", values, affine)
    return written


def _rotation(about_x: float, about_z: float) -> NDArray[np.float64]:
    x, z = math.radians(about_x), math.radians(about_z)
    tilt = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    turn = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    return tilt @ turn
