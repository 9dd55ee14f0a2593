"""What stages share: ranges of the spectrum, the noise outside the signal, and what they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.conventions import Acquisition, ScanNoise
from mrsi_engine.errors import InputError
from mrsi_engine.kernels.noise import noise_sd
from mrsi_engine.nuclei import Nucleus, nucleus
from mrsi_engine.pipeline.settings import NucleusRange, setting
from mrsi_engine.pipeline.stage import Context, Stage

#: Fewest points of the spectrum a noise level is read from. The median absolute deviation of ``n``
#: complex points has a relative error of ``1.17 / sqrt(2 n)``: 15 % with 32, which widens errors
#: in units of their SD by 2 %. Ordinary scans must pass: 512 points of 0.36 ms at 7 T have 46.
MIN_QUIET_BINS = 32


class NucleusDefaults(Stage):
    """Base of stages with settings that are the nucleus' own unless given.

    ``of_nucleus`` says what each of them is where it is ``None``; those of a table by
    ``table.key``.
    """

    of_nucleus: ClassVar[Mapping[str, Callable[[Nucleus], Any]]] = {}

    def own(self, key: str, acquisition: Acquisition) -> Any:
        """A setting, or what the nucleus of the acquisition has for it.

        Raises
        ------
        InputError
            If the nucleus is not known, or its spectra have nothing of the kind.
        """
        value = attrgetter(key)(self)
        return self.of_nucleus[key](nucleus(acquisition.nucleus)) if value is None else value

    def resolved(self, acquisition: Acquisition) -> Self:
        """This stage with every setting stated: what a run is known by and results keep."""
        found = self
        for key in self.of_nucleus:
            if attrgetter(key)(self) is None:
                found = found.with_setting(key, self.own(key, acquisition))
        return found


class NoiseRange(NucleusDefaults):
    """Base of stages that measure the noise outside ``noise_ppm``, the range that holds signal.

    It is that of the nucleus unless given.
    """

    of_nucleus: ClassVar[Mapping[str, Callable[[Nucleus], Any]]] = {
        "noise_ppm": lambda n: n.windows.signal
    }

    noise_ppm: NucleusRange = setting(
        None,
        "The range that holds signal; noise is measured outside. That of the nucleus if not given.",
        unit="ppm",
    )

    def quiet_bins(self, acquisition: Acquisition) -> NDArray[np.bool_]:
        """Signal-free bins of the unshifted transform, ``(time,)``.

        Raises
        ------
        InputError
            If there are too few to measure the noise.
        """
        ppm = np.fft.ifftshift(acquisition.ppm)
        low, high = self.own("noise_ppm", acquisition)
        quiet = (ppm < low) | (ppm > high)
        if quiet.sum() < MIN_QUIET_BINS:
            raise InputError(
                f"stage {self.stage!r}: {quiet.sum()} points of the spectrum ({ppm.min():.1f} to "
                f"{ppm.max():.1f} ppm) lie outside noise_ppm = [{low:g}, {high:g}], where the "
                f"noise is measured; {MIN_QUIET_BINS} are needed. State a narrower range"
            )
        return np.asarray(quiet)

    def noise_bins(self, acquisition: Acquisition, noise: ScanNoise) -> NDArray[np.bool_]:
        """The quiet bins in which noise is as strong as among the signals, ``(time,)``.

        All quiet bins where too few are: see :meth:`unknown_noise`.

        Raises
        ------
        InputError
            If there are too few quiet bins to measure the noise.
        """
        flat = self._flat_bins(acquisition, noise)
        return flat if flat.sum() >= MIN_QUIET_BINS else self.quiet_bins(acquisition)

    def unknown_noise(self, acquisition: Acquisition, noise: ScanNoise) -> str:
        """Why the noise among the signals cannot be measured; empty where it can."""
        if noise.unknown or self._flat_bins(acquisition, noise).sum() >= MIN_QUIET_BINS:
            return noise.unknown
        return "it is weaker wherever there are no signals"

    def _flat_bins(self, acquisition: Acquisition, noise: ScanNoise) -> NDArray[np.bool_]:
        quiet = self.quiet_bins(acquisition)
        if noise.flat_hz is None:
            return quiet
        hertz = np.fft.ifftshift(acquisition.frequencies)
        return np.asarray(quiet & (hertz >= noise.flat_hz[0]) & (hertz <= noise.flat_hz[1]))

    def noise_of(self, fids: Tensor, context: Context) -> Tensor:
        """SD of the noise per real channel of ``fids (..., time)``, ``(...)`` float32."""
        bins = self.noise_bins(context.acquisition, context.noise)
        return noise_sd(fids, torch.from_numpy(bins).to(fids.device))


class OptionalStage(Stage):
    """Base of stages that need something not every scan has.

    With ``optional = true`` the stage is passed over in a scan without it and writes nothing; else
    such a scan is refused.
    """

    #: What to do about what a scan lacks.
    remedy: ClassVar[str]

    optional: bool = setting(
        False, "Pass over a scan that lacks what the stage needs, instead of refusing it."
    )

    def lacks(self, context: Context) -> str:
        """What the scan lacks for this stage; empty if nothing."""
        raise NotImplementedError

    def skipped(self, context: Context) -> bool:
        """Whether the stage does nothing in this scan."""
        return self.optional and bool(self.lacks(context))

    def refuse_lacking(self, context: Context) -> None:
        """Refuse a scan that lacks what the stage needs, unless it may be passed over.

        Raises
        ------
        InputError
            If it does.
        """
        lacking = self.lacks(context)
        if lacking and not self.optional:
            raise InputError(
                f"stage {self.stage!r}: {lacking}: {self.remedy}, or set optional = true"
            )


def landmark_lines(symbol: str) -> tuple[tuple[float, float], ...]:
    """Chemical shift (ppm) and usual height of the lines that spectra are recognised by.

    Empty for a nucleus whose table names none.
    """
    alignment = nucleus(symbol).alignment
    return () if alignment is None else alignment.singlets


def one_fid_a_voxel(context: Context, stage: str) -> None:
    """Refuse FIDs that still have coils or transients.

    Raises
    ------
    InputError
        If the context has dimensions between voxel and time.
    """
    if context.dimensions:
        names = " and ".join(repr(name) for name in context.dimensions)
        raise InputError(
            f"stage {stage!r} works on one FID a voxel, but FIDs that reach it have the "
            f"dimension {names}; put coil_combination and averaging before it"
        )


def refuse_coils(context: Context, stage: str) -> None:
    """Refuse FIDs of single coils.

    Raises
    ------
    InputError
        If coils are not combined yet.
    """
    if "coil" in context.dimensions:
        raise InputError(f"stage {stage!r} works on combined coils; put coil_combination before it")


def hertz_between(
    acquisition: Acquisition, ppm: tuple[float, float], what: str
) -> tuple[float, float]:
    """(low, high) in Hz of a range in ppm; ``what`` names it in the message.

    Raises
    ------
    InputError
        If it leaves the spectrum.
    """
    half = acquisition.spectral_width / 2
    low, high = sorted(float(f) for f in acquisition.frequency_of(ppm))
    if low < -half or high > half:
        ends = sorted(acquisition.ppm_of([-half, half]))
        raise InputError(
            f"{what} = {list(ppm)} lies outside the spectrum ({ends[0]:.2f} to {ends[1]:.2f} ppm); "
            "choose a range inside it or leave the stage out"
        )
    return low, high


def energy_between(fids: Tensor, acquisition: Acquisition, ppm: tuple[float, float]) -> Tensor:
    """Energy of the spectra of ``fids (voxel, time)`` in a range of ppm, ``(voxel,)`` float64."""
    axis = np.fft.ifftshift(acquisition.ppm)
    inside = torch.from_numpy((axis >= ppm[0]) & (axis <= ppm[1])).to(fids.device)
    return torch.fft.fft(fids, norm="ortho")[:, inside].abs().double().square().sum(1)


def mean_reference(water: Tensor, points: int) -> Tensor:
    """The water reference of a voxel, ``(voxel, time)``: the mean of its transients.

    Raises
    ------
    InputError
        If it is not as long as the FIDs.
    """
    if water.shape[-1] != points:
        raise InputError(
            f"the water reference has {water.shape[-1]} points, the scan {points}: both must be "
            "acquired alike"
        )
    return water.flatten(1, -2).mean(1) if water.ndim > 2 else water
