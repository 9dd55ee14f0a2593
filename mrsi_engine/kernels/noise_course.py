"""What the noise of a scan is like: over time, over frequency and between signals.

White noise is alike at every time and frequency and shared by no two signals. FIDs that were
zero-filled, apodised, filtered or denoised hold other noise, and bounds made for white noise are
wrong for them. Signals are cut into overlapping pieces, each under a Kaiser window whose side
lobes lie below what float32 holds: strong water then stays at its own frequency, and what is left
in the other cells of time and frequency is noise.

Tests need both: that a departure is no chance, and that it is large enough to matter. Cells that
share samples are not independent; their correlation follows from the window (:func:`_sharing`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

#: Shape of the Kaiser window: side lobes of 1e-6.
_BETA = 14.0

#: Pieces of a FID, were they to lie end to end; samples of the shortest and longest piece.
_PIECES, _SHORTEST, _LONGEST = 16, 32, 256

#: Half the width of a line under the window, in bins.
_HALF_LINE = math.sqrt(1 + (_BETA / math.pi) ** 2)

#: Noise that falls to this share from one sample to the next has come to a zero-filled tail.
_TAIL = 1e-3

#: Fewest samples that are left of a FID, and that tell of its noise.
_FEWEST, _ENOUGH = 32, 4 * _SHORTEST

#: Noise below this share of the signal around it is what float32 leaves of none.
_NOTHING = 2e-5

#: A decay is believed beyond this chi-square of two parameters (one white scan in 10 000), where
#: the noise changes by this much (log) from start to end; where the header says so, beyond these.
_CHANCE, _CHANGE = 18.4, 0.15
_CHANCE_TOLD, _CHANGE_TOLD = 9.2, 0.05

#: A law of decay that describes the noise leaves this much (RMS of the log amplitude) and no more.
_LEFT = 0.12

#: A law is fitted to noise above this share of the strongest (amplitude), and undone as long as
#: the noise follows it (within a factor of e in power), down to the second share at most.
_HEARD, _LEAST_ENVELOPE = 3e-4, 1e-6

#: Noise counts as flat down to this share of its level between the lines, in amplitude.
_FLAT = 0.8

#: Bins beside the signals in which no noise is looked for: strong lines are wider than one.
_GUARD = 2.5

#: Bins at the edge of flat noise into which the window brings what lies beyond.
_SMEARED = 2

#: Duration (s) by which signals have decayed enough to tell their noise from them.
_LONG_ENOUGH = 0.1

#: Power that the noise of two signals far apart shares, by which they were denoised together, and
#: the fewest signals and cells of each that tell.
_SHARED, _FEWEST_SIGNALS, _FEWEST_CELLS = 0.015, 24, 60

#: Fewest bins without signals, and pieces, that tell of noise over time.
_FEWEST_BINS, _FEWEST_PIECES = 4, 6


@dataclass(frozen=True)
class Envelope:
    """``exp(-linear t - quadratic t^2)`` that white noise was multiplied by; 1/s and 1/s^2."""

    linear: float = 0.0
    quadratic: float = 0.0

    def __bool__(self) -> bool:
        return self.linear != 0 or self.quadratic != 0

    def log(self, time: Tensor) -> Tensor:
        """Its logarithm at ``time``, s."""
        return -self.linear * time - self.quadratic * time.square()

    @property
    def description(self) -> str:
        """As people say it, with the width of its line in Hz."""
        parts = []
        if self.linear:
            parts.append(f"an exponential of {self.linear / math.pi:.2f} Hz")
        if self.quadratic:
            width = 4 * math.sqrt(math.log(2) * abs(self.quadratic)) / (2 * math.pi)
            parts.append(f"a Gaussian of {math.copysign(width, self.quadratic):.2f} Hz")
        return " and ".join(parts)


@dataclass(frozen=True)
class NoiseCourse:
    """What was found of the noise of a scan.

    Parameters
    ----------
    points
        Samples of a FID to keep: later ones hold nothing.
    acquired
        Samples before the zero-filled tail.
    envelope
        What the noise decays by.
    flat_hz
        (low, high) frequencies between which the noise is as strong as among the signals; ``None``
        if that is everywhere.
    unknown
        Why the noise cannot be measured; empty where it can.
    """

    points: int
    acquired: int
    envelope: Envelope = Envelope()
    flat_hz: tuple[float, float] | None = None
    unknown: str = ""


def noise_course(
    fids: Tensor,
    dwell_time: float,
    signal_hz: tuple[float, float],
    *,
    apodised: bool = False,
    distinct: bool = True,
) -> NoiseCourse:
    """What the noise of some signals of a scan is like.

    Parameters
    ----------
    fids
        ``(signal, time)`` complex, finite, none all 0.
    dwell_time
        s.
    signal_hz
        (low, high) where metabolites lie.
    apodised
        Whether the header says that they were: less evidence is then enough.
    distinct
        Whether the signals are of different voxels, whose noise should have nothing in common.
    """
    points = acquired_points(fids)
    found = NoiseCourse(points, points)
    if points < _ENOUGH:
        return found
    kept = fids[:, :points].to(torch.complex128)
    cells = _Cells.of(kept)
    low, high, weaker = _flat(cells, dwell_time, signal_hz)
    if weaker:
        return replace(found, unknown="the noise is weaker outside the signals: band-limited")
    if not cells.between(low, high).all():
        half = 0.5 / len(cells.window)
        found = replace(found, flat_hz=((low - half) / dwell_time, (high + half) / dwell_time))
    first, last = (edge * dwell_time for edge in signal_hz)
    if last - first >= 1:
        return found
    cells = cells.within(low, high, first, last)
    if int(cells.flat.sum()) < _FEWEST_BINS:
        return found
    if not cells.holds_noise:
        return replace(found, unknown="no noise outside the signals: filtered or simulated")
    limits = (_CHANCE_TOLD, _CHANGE_TOLD) if apodised else (_CHANCE, _CHANGE)
    envelope, decaying = _envelope(cells, *limits), found
    if envelope:
        points = _undone(cells, envelope)
        time = torch.arange(points, dtype=torch.float64)
        kept = kept[:, :points] * (-envelope.log(time[:points])).exp()
        cells = _Cells.of(kept, len(cells.window)).within(low, high, first, last)
        per_second = Envelope(envelope.linear / dwell_time, envelope.quadratic / dwell_time**2)
        found = replace(found, points=points, envelope=per_second)
    if len(cells.power) < _FEWEST_PIECES or cells.unevenness > _LEFT:
        return replace(decaying, unknown="the noise changes over time by no law that can be undone")
    if distinct and cells.shared > _SHARED:
        return replace(found, unknown="voxels far apart share their noise: denoised together")
    return found


def acquired_points(fids: Tensor) -> int:
    """Samples before the tail of zeros, or of next to nothing, that all signals end in.

    Parameters
    ----------
    fids
        ``(signal, time)`` complex, finite.
    """
    held = (fids != 0).any(0).nonzero()
    if len(held) == 0:
        return 0
    points = int(held[-1]) + 1
    if points < 2 * _FEWEST:
        return points
    # Steps between samples tell noise from what a slow residue of water leaves in the tail.
    rough = fids[:, :points].to(torch.complex128).diff(n=3, dim=1).abs().square()
    rough = (rough / rough.mean(1, keepdim=True).clamp_min(torch.finfo(rough.dtype).tiny)).mean(0)
    return _before_the_drop(rough, points)


def _before_the_drop(rough: Tensor, points: int) -> int:
    """Where roughness ``(time - 3,)`` falls to a millionth and stays there; ``points`` if not."""
    width = max(8, points // 64)
    # The most of what follows, and the mean of what comes before.
    after = rough.flip(0).cummax(0).values.flip(0)
    before = torch.nn.functional.avg_pool1d(rough[None, None], width, 1)[0, 0]
    dropped = after[width + 3 :] < _TAIL**2 * before[: len(after) - width - 3]
    found = dropped.nonzero()
    return points if len(found) == 0 else int(found[0]) + width + 3


@dataclass(frozen=True, eq=False)
class _Cells:
    """Signals over time and frequency: ``spectra (signal, piece, bin)`` complex128.

    ``power (piece, bin)`` is the mean over the signals, each over its own level; ``window
    (sample,)`` has unit energy, pieces stand ``hop`` samples apart; ``magnitude (signal, piece)``
    is the RMS of the samples under each window; ``flat (bin,)`` bool, where noise is looked for.
    """

    spectra: Tensor
    power: Tensor
    window: Tensor
    hop: int
    points: int
    magnitude: Tensor
    flat: Tensor

    @classmethod
    def of(cls, fids: Tensor, length: int = 0) -> _Cells:
        points = fids.shape[1]
        if not length:
            suitable = 2 ** round(math.log2(max(points / _PIECES, 1)))
            length = min(max(suitable, _SHORTEST), _LONGEST)
        window = torch.kaiser_window(length, False, _BETA, dtype=torch.float64)
        window = window / torch.linalg.vector_norm(window)
        hop = length // 4
        pieces = fids.unfold(1, length, hop) * window
        magnitude = torch.linalg.vector_norm(pieces, dim=2)
        everywhere = torch.ones(length, dtype=torch.bool)
        spectra = torch.fft.fft(pieces)
        return cls(spectra, _power(spectra), window, hop, points, magnitude, everywhere)

    @property
    def frequencies(self) -> Tensor:
        """Of the bins, per sample, ``(bin,)``."""
        return torch.fft.fftfreq(len(self.window), dtype=torch.float64)

    def between(self, low: float, high: float) -> Tensor:
        """Bins from one frequency to another, ``(bin,)`` bool."""
        return (self.frequencies >= low - 1e-9) & (self.frequencies <= high + 1e-9)

    def within(self, low: float, high: float, first: float, last: float) -> _Cells:
        """With noise looked for from ``low`` to ``high`` but for signals, ``first`` to ``last``."""
        guard = _GUARD / len(self.window)
        signals = self.between(first - guard, last + guard)
        return replace(self, flat=self.between(low, high) & ~signals)

    @cached_property
    def quiet(self) -> Tensor:
        """Bins without signals, ``(bin,)`` bool: of the lowest power over all times."""
        parts = self.power.tensor_split(min(4, len(self.power)))
        quarters = torch.stack([part.log().mean(0) for part in parts])
        # The worst quarter: signals that are gone later spoil a bin, too.
        score = quarters.amax(0)
        among = score[self.flat]
        chance = 2 * (4 * self._chance * self.sharing_in_time / len(self.power)) ** 0.5
        highest = min(float(among.quantile(0.15)) + 0.1 + chance, float(among.quantile(0.6)))
        return self.flat & (score <= highest)

    @property
    def holds_noise(self) -> bool:
        """Whether quiet bins hold more than rounding leaves, at the times when signals are low."""
        quiet = self.spectra[:, :, self.quiet].abs().square().mean(2).sqrt()
        share = (quiet / self.magnitude.clamp_min(torch.finfo(quiet.dtype).tiny)).median(0).values
        return bool(share.max() > _NOTHING)

    @cached_property
    def course(self) -> Tensor:
        """Power of the noise over time, ``(piece,)``."""
        return self.power[:, self.quiet].mean(1)

    @property
    def variance(self) -> float:
        """Relative variance of the course, from the scatter between quiet bins."""
        quiet = self.power[:, self.quiet]
        scatter = (quiet / self.course[:, None]).var(1).mean() if quiet.shape[1] > 3 else 0.0
        each = max(float(scatter), self._chance)
        return each * self._sharing_in_frequency / quiet.shape[1]

    @property
    def unevenness(self) -> float:
        """RMS of the log amplitude over time less what chance gives."""
        log = 0.5 * self._in_groups(self.course).log()
        expected = 0.25 * self.variance * self.sharing_in_time / self._group
        spread = float((log - log.mean()).square().mean()) - expected * 2.5
        return math.sqrt(max(spread, 0.0))

    @property
    def shared(self) -> float:
        """Squared correlation of the noise of two signals, typically, less what chance gives."""
        if len(self.spectra) < _FEWEST_SIGNALS:
            return 0.0
        # Cells that share next to nothing, when signals have decayed.
        bins = self.quiet.nonzero().squeeze(1)[::3]
        noise = self.spectra[:128, len(self.power) // 4 :: 3][:, :, bins].flatten(1)
        cells = noise.shape[1]
        if cells < _FEWEST_CELLS:
            return 0.0
        noise = noise / torch.linalg.vector_norm(noise, dim=1, keepdim=True)
        both = (noise @ noise.mH).abs().square()
        pairs = torch.ones_like(both, dtype=torch.bool).triu(1)
        return float(both[pairs].median()) / math.log(2) - 1 / cells

    @property
    def levels(self) -> tuple[Tensor, Tensor]:
        """Amplitude in the middle and in the last third of the time by bin, ``(bin,)`` each.

        Times in which nothing but rounding is left do not count.
        """
        heard = self.power[self.heard]
        third = max(1, len(heard) // 3)
        return heard[-2 * third : -third].mean(0).sqrt(), heard[-third:].mean(0).sqrt()

    @property
    def heard(self) -> Tensor:
        """Pieces that are not lost in what rounding leaves of the strongest, ``(piece,)`` bool."""
        return self.course > _HEARD**2 * self.course.max()

    @property
    def level_error(self) -> float:
        """Relative SD of a level, of three neighbouring bins."""
        third = max(1, len(self.power) // 3)
        return 0.5 * (self._chance * self.sharing_in_time / third) ** 0.5

    @property
    def weights(self) -> Tensor:
        """Share of each sample in each piece, ``(piece, time)``."""
        found = self.window.new_zeros(len(self.power), self.points)
        for piece, row in enumerate(found):
            row[piece * self.hop : piece * self.hop + len(self.window)] = self.window.square()
        return found

    @property
    def _group(self) -> int:
        return max(1, len(self.course) // 8)

    def _in_groups(self, course: Tensor) -> Tensor:
        """The course as the means of about eight stretches."""
        groups = len(course) // self._group
        return course[: groups * self._group].unflatten(0, (groups, -1)).mean(1)

    @property
    def _chance(self) -> float:
        """Relative variance of a cell's power."""
        return _relative_variance(len(self.spectra))

    @cached_property
    def sharing_in_time(self) -> float:
        w = self.window
        shifted = [(w[j:] * w[: len(w) - j]).sum() ** 2 for j in range(self.hop, len(w), self.hop)]
        return 1 + 2 * float(sum(shifted))

    @cached_property
    def _sharing_in_frequency(self) -> float:
        return float(torch.fft.fft(self.window.square()).abs().square().sum())


#: Signals from which on the median is taken: a few voxels may hold signals where others have none.
_MANY = 16


def _power(spectra: Tensor) -> Tensor:
    """``(piece, bin)`` of ``(signal, piece, bin)``: mean over signals, each over its own level."""
    power = spectra.abs().square()
    level = power.flatten(1).quantile(0.25, dim=1)[:, None, None]
    return _typical(power / level.clamp_min(torch.finfo(power.dtype).tiny))


def _typical(power: Tensor) -> Tensor:
    """Of the signals ``(signal, ...)``."""
    return power.mean(0) if len(power) < _MANY else power.median(0).values / math.log(2)


def _relative_variance(signals: int) -> float:
    """Of :func:`_typical` of exponentially distributed power."""
    return 1 / signals if signals < _MANY else 1 / (signals * math.log(2) ** 2)


def _envelope(cells: _Cells, chance: float, change: float) -> Envelope:
    """The law the noise decays by, per sample; none where it may be white.

    The simplest of exponential, Gaussian and both that describes it as well.
    """
    variance = cells.variance * cells.sharing_in_time
    both, precision = _decay(cells, (True, True))
    moved = both @ precision @ both / variance
    last = torch.tensor(float(cells.points))
    ends = Envelope(*both.tolist()).log(last).abs()
    if moved < chance or ends < change:
        return Envelope()
    for kinds in ((True, False), (False, True)):
        one, _ = _decay(cells, kinds)
        apart = one - both
        if apart @ precision @ apart / variance < chance:
            return Envelope(*one.tolist())
    return Envelope(*both.tolist())


def _undone(cells: _Cells, envelope: Envelope) -> int:
    """Samples as far as the noise follows an envelope."""
    time = torch.arange(cells.points, dtype=torch.float64)
    expected = (cells.weights @ (2 * envelope.log(time)).exp()).log()
    apart = cells.course.log() - expected
    follows = (apart - apart[cells.heard].mean()).abs() < 1
    last = int(follows.cumprod(0).sum()) - 1
    end = cells.points if last == len(follows) - 1 else last * cells.hop + len(cells.window)
    strong = int((envelope.log(time) > math.log(_LEAST_ENVELOPE)).sum())
    return max(min(end, strong), len(cells.window))


def _decay(cells: _Cells, kinds: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    """Coefficients of ``t`` and ``t^2``, and their precision at unit relative variance.

    Gauss-Newton steps on the logarithm of the power that is expected under each window.
    """
    time = torch.arange(cells.points, dtype=torch.float64)
    terms = torch.stack([time, time.square()], dim=1)
    heard = cells.heard
    weights, log = cells.weights[heard], cells.course[heard].log()
    free = torch.tensor([True, *kinds])
    theta = terms.new_zeros(3)
    for _ in range(30):
        inside = weights * (-2 * terms @ theta[1:]).clamp(-600, 600).exp()
        expected = inside.sum(1)
        slopes = -2 * (inside @ terms) / expected[:, None]
        design = torch.cat([torch.ones_like(expected)[:, None], slopes], dim=1)
        residual = log - theta[0] - expected.log()
        scale = design.square().sum(0).sqrt().clamp_min(torch.finfo(log.dtype).tiny)
        step = torch.linalg.lstsq((design / scale)[:, free], residual[:, None]).solution[:, 0]
        theta[free] += step / scale[free]
    normal = design.T @ design
    precision = normal[1:, 1:] - torch.outer(normal[1:, 0], normal[0, 1:]) / normal[0, 0]
    return theta[1:], precision


def _flat(
    cells: _Cells, dwell_time: float, signal_hz: tuple[float, float]
) -> tuple[float, float, bool]:
    """(low, high) per sample of the bins with as much noise as among the signals, all if that
    cannot be told; and whether it is weaker everywhere beyond the signals.
    """
    frequencies = torch.fft.fftshift(cells.frequencies)
    everywhere = float(frequencies[0]), float(frequencies[-1])
    inside = (frequencies >= signal_hz[0] * dwell_time) & (frequencies <= signal_hz[1] * dwell_time)
    places = inside.nonzero().squeeze(1)
    narrow = len(places) < 2 * _HALF_LINE or bool(inside.all())
    heard = int(cells.heard.sum()) * cells.hop * dwell_time
    if narrow or heard < _LONG_ENOUGH:
        return *everywhere, False
    middle, late = (torch.fft.fftshift(level) for level in cells.levels)
    level, before = late[inside].quantile(0.25), middle[inside].quantile(0.25)
    quiet = torch.fft.fftshift(cells.quiet)
    beside = late[quiet].mean() / middle[quiet].mean()
    if level < _FLAT * before and level < _FLAT * before * beside:
        # Signals that are alive to the end decay: between them is no noise to compare with.
        return *everywhere, False
    smooth = torch.nn.functional.avg_pool1d(late[None, None], 3, 1, 1, count_include_pad=False)
    flat = smooth[0, 0] >= level * _FLAT * math.exp(-4 * cells.level_error)
    first, last = int(places[0]), int(places[-1])
    low = first - int(flat[:first].flip(0).cumprod(0).sum())
    high = last + int(flat[last + 1 :].cumprod(0).sum())
    # Where noise ends, the window has smeared it into its neighbours.
    low = low + _SMEARED if low > 0 else low
    high = high - _SMEARED if high < len(flat) - 1 else high
    beyond = max(first - low, 0) + max(high - last, 0)
    if (low, high) == (0, len(flat) - 1) or beyond >= _HALF_LINE:
        return float(frequencies[low]), float(frequencies[high]), False
    return *everywhere, True
