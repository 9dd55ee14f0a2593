"""Words a user chooses by, and what is meant if nothing is said.

Apart, so that the command line can name them without importing what they stand for.
"""

from __future__ import annotations

from typing import Literal

#: Name of the ready-made pipeline that runs unless another is named.
DEFAULT_PIPELINE = "brain-1h-3t"

#: Device: a GPU where torch sees one, else the CPU.
AUTO = "auto"

#: Share of usable voxels from which a run is accepted.
MIN_USABLE = 0.2

#: What maps hold where there is no fit: NaN, or what MRSIPrep reads.
Fill = Literal["nan", "mrsiprep"]

#: What disturbs the spectra of a simulated scan.
Nuisance = Literal["none", "water", "lipid", "all"]

#: What is done about a basis of another echo time or sequence than the scan's.
TimingMismatch = Literal["refuse", "allow"]

#: Which scans of a cohort that ran before are done again; ``unfinished``: failed and missing.
Rerun = Literal["unfinished", "failed", "missing", "all"]

#: Scans of a cohort whose report is made; ``flagged`` are those nobody should use unseen.
Reports = Literal["all", "flagged", "none"]

#: Pulse sequences of simulated bases.
Sequence = Literal["press", "slaser", "steam", "fid"]
