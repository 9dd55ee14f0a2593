"""Columns of the group table: what is said of every scan, and of each quantity of a scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mrsi_engine.conventions import Flag
from mrsi_engine.quantities import AMPLITUDES, Quantity, Role

#: Fraction above which a voxel counts as of one tissue.
DOMINANT = 0.6


@dataclass(frozen=True)
class Column:
    """A column: its name, its unit (``""`` of words) and what it is."""

    name: str
    unit: str
    description: str


@dataclass(frozen=True)
class Statistic:
    """A number over the voxels of a scan that quantities of some roles have, as ``NAME_suffix``.

    Without a ``unit`` it has that of its quantity. ``description`` goes before the quantity's own.
    """

    suffix: str
    unit: str
    description: str

    def column(self, quantity: Quantity) -> Column:
        """That of a quantity."""
        return Column(
            f"{quantity.name}_{self.suffix}",
            self.unit or quantity.units,
            f"{self.description} of {quantity.label}: {quantity.doc}",
        )


MEDIAN = Statistic("median", "", "median over usable voxels")
CRLB = Statistic("crlb", "%", "median over usable voxels of the SD in percent of the estimate")
SD = Statistic("sd", "", "median over usable voxels of the SD")
COVERAGE = Statistic(
    "coverage", "%", "share of the usable voxels whose SD is below crlb_limit percent of the value"
)
#: Of measures and lineshapes: those of usable voxels alone would be cut off at their own limits.
FITTED = (
    Statistic("median", "", "median over fitted voxels"),
    Statistic("q1", "", "lower quartile over fitted voxels"),
    Statistic("q3", "", "upper quartile over fitted voxels"),
)

_AMOUNT = (MEDIAN, CRLB, COVERAGE)

#: Statistics by role; quantities of other roles have none.
STATISTICS: Mapping[Role, tuple[Statistic, ...]] = {
    **dict.fromkeys((*AMPLITUDES, Role.CONCENTRATION, Role.RATIO), _AMOUNT),
    Role.PROPERTY: (MEDIAN, SD),
    Role.LINESHAPE: FITTED,
    Role.QUALITY: FITTED,
}

#: Roles that have a median by tissue, too.
BY_TISSUE = (*AMPLITUDES, Role.CONCENTRATION, Role.RATIO, Role.PROPERTY)


def in_tissue(tissue: str) -> Statistic:
    """The median over usable voxels of one tissue."""
    where = f"median over usable voxels with a fraction of {tissue} above {DOMINANT:g},"
    return Statistic(f"median_{tissue}", "", where)


def tissue_column(tissue: str) -> Column:
    """How many voxels are of a tissue."""
    doc = f"usable voxels with a fraction of {tissue} above {DOMINANT:g}"
    return Column(f"voxels_{tissue}", "1", doc)


def flag_column(flag: Flag) -> Column:
    """How many voxels have a flag."""
    words = flag.meaning.replace("_", " ")
    return Column(f"flag_{flag.meaning}", "1", f"voxels of the mask with the flag {words!r}")


#: How much of a scan is usable, and why not the rest.
VERDICT = (
    Column("verdict", "", "what to think of the scan, in words"),
    Column("voxels", "1", "voxels of the mask, without scalp"),
    Column("fitted", "1", "of them, voxels that hold results"),
    Column("usable", "1", "of them, voxels that no flag rejects"),
    Column("usable_share", "%", "usable voxels in percent of the mask"),
    Column(
        "main_reason",
        "",
        "why most of the others are not usable; each voxel counts for the reason that explains "
        "its others",
    ),
)
FLAGS = tuple(flag_column(flag) for flag in Flag)

FREQUENCY = (
    Column("b0_shift_median", "Hz", "median over fitted voxels of the frequency as acquired"),
    Column(
        "b0_shift_spread",
        "Hz",
        "spread over fitted voxels of the frequency as acquired: 1.4826 times the median absolute "
        "deviation, the SD of a normal distribution",
    ),
)

#: How it was acquired, as far as the header says and is not personal.
PROTOCOL = (
    Column("protocol", "", "what scans of one protocol have in common, in words"),
    Column("nucleus", "", "resonant nucleus"),
    Column("field", "T", "static field, from the spectrometer frequency"),
    Column("sequence", "", "pulse sequence"),
    Column("echo_time", "s", "echo time; of a FID its acquisition delay"),
    Column("repetition_time", "s", "repetition time"),
    Column("points", "1", "complex points of a FID"),
    Column("spectral_width", "Hz", "spectral width"),
    Column("matrix", "", "voxels of the volume along x, y, z"),
    Column("voxel_volume", "mL", "nominal volume of a voxel"),
    Column("manufacturer", "", "manufacturer of the scanner"),
    Column("model", "", "model of the scanner, where the header was kept whole"),
    Column("scanner_software", "", "version of the scanner's software"),
)

#: How it was processed.
PROCESSING = (
    Column("pipeline", "", "name of the pipeline"),
    Column("basis", "", "name of the basis"),
    Column("mask", "", "where the mask is from"),
    Column("crlb_limit", "%", "SD in percent of an estimate up to which it counts as covered"),
    Column("ratio_to", "", "amplitude that ratios are to"),
    Column("engine_version", "", "version of mrsi_engine"),
    Column("torch_version", "", "version of torch"),
    Column("devices", "", "what computed it"),
    Column("finished", "", "when it was finished, UTC"),
    Column("processing_seconds", "s", "wall time of its passes and blocks, over all sessions"),
    Column("kernel_seconds", "s", "time in its blocks, summed over workers"),
)

#: What every row of a summary has.
FIXED = (*VERDICT, *FLAGS, *FREQUENCY, *PROTOCOL, *PROCESSING)


def quantity_columns(quantity: Quantity, tissues: Sequence[str] = ()) -> Iterator[Column]:
    """Columns of one quantity."""
    found = STATISTICS.get(quantity.role, ())
    more = [in_tissue(t) for t in tissues] if quantity.role in BY_TISSUE else []
    yield from (statistic.column(quantity) for statistic in (*found, *more))


def summary_columns(
    quantities: Sequence[Quantity], tissues: Sequence[str] = ()
) -> dict[str, Column]:
    """All columns of summaries with these quantities and tissues, by name, in their order."""
    found = [*FIXED, *(tissue_column(t) for t in tissues)]
    found += [c for q in quantities for c in quantity_columns(q, tissues)]
    return {column.name: column for column in found}
