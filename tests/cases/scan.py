"""A phantom's files, and copies of them with something changed, written by nibabel alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Scan:
    """Samples ``(x, y, z, time)``, header fields and truth of a simulated scan.

    ``noise_sd`` is that of a channel of a sample, measured where the FIDs have decayed.
    """

    folder: Path
    data: NDArray[np.complex64]
    fields: dict[str, Any]
    affine: NDArray[np.float64]
    dwell_time: float

    @classmethod
    def of(cls, folder: Path) -> Scan:
        data, fields, image = read(folder / "scan.nii.gz")
        return cls(folder, data, fields, image.affine, float(str(image.header["pixdim"][4])))

    @property
    def mask(self) -> Path:
        return self.folder / "mask.nii.gz"

    @property
    def brain(self) -> NDArray[np.bool_]:
        return np.asarray(nib.load(self.mask).dataobj) > 0

    @property
    def time(self) -> NDArray[np.float64]:
        return np.arange(self.data.shape[3]) * self.dwell_time

    @property
    def megahertz(self) -> float:
        return float(self.fields["SpectrometerFrequency"][0])

    @property
    def noise_sd(self) -> float:
        tail = self.data[..., -200:]
        return float(np.sqrt((tail.real.var() + tail.imag.var()) / 2))

    def truth(self, label: str) -> NDArray[np.float64]:
        """Known amplitudes of a label, ``(x, y, z)``."""
        return np.asarray(nib.load(self.folder / "truth" / f"{label}.nii.gz").dataobj, float)

    def noise(self, *shape: int, seed: int = 0) -> NDArray[np.complex128]:
        """Noise like the scan's."""
        draw = np.random.default_rng(seed)
        return self.noise_sd * (draw.normal(size=shape) + 1j * draw.normal(size=shape))

    def save(
        self,
        path: Path,
        data: NDArray[Any] | None = None,
        *,
        without: Iterable[str] = (),
        affine: NDArray[np.float64] | None = None,
        sform: int = 1,
        qform: int = 1,
        dwell_time: float | None = None,
        unit: str = "sec",
        raw: bytes | None = None,
        image: type[nib.Nifti1Image] = nib.Nifti2Image,
        **fields: Any,
    ) -> Path:
        """A copy with other samples, header fields or position."""
        samples = self.data if data is None else data
        if samples.dtype == np.complex128 and data is not None and self.data is not data:
            samples = samples.astype(np.complex64)
        position = self.affine if affine is None else affine
        new = image(samples, position)
        new.set_sform(position, code=sform)
        new.set_qform(position, code=qform)
        new.header["intent_name"] = b"mrs_v0_11"
        new.header["pixdim"][4] = self.dwell_time if dwell_time is None else dwell_time
        new.header.set_xyzt_units("mm", unit)
        left = set(without)
        kept = {k: v for k, v in {**self.fields, **fields}.items() if k not in left}
        text = json.dumps(kept).encode() if raw is None else raw
        new.header.extensions.append(nib.nifti1.Nifti1Extension(44, text))
        nib.save(new, path)
        return path


def read(path: Path) -> tuple[NDArray[Any], dict[str, Any], Any]:
    """Samples, header extension and image of a NIfTI-MRS file."""
    image = nib.load(path)
    fields = json.loads(image.header.extensions[0].get_content())
    return np.asarray(image.dataobj), fields, image
