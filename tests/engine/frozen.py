"""Numbers of every stage, of an import and of a whole run, frozen: known by their revisions.

After a change of numbers that is meant, raise the revision and write them anew with
``python -m tests.engine.frozen``; after one of the scans they are made from, only the latter.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrsi_engine.engine import identity
from mrsi_engine.engine.driver import run
from mrsi_engine.engine.plan import plan
from mrsi_engine.io import importing
from mrsi_engine.io.importing import import_scan
from mrsi_engine.io.result_store import open_result
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.registry import revision_of
from mrsi_engine.runs.bases import BasisChoice, load_basis
from mrsi_engine.runs.demo import simulate_scan
from mrsi_engine.spectra import simulation
from mrsi_engine.spectra.phantom import PhantomSettings
from mrsi_engine.testing.stages import applied, states_of, tensors_of
from tests.small_scans import small_basis
from tests.stages.test_conformance import FITS, SCENES, case_of

FILE = Path(__file__).parent.parent / "data" / "frozen.json"

#: Share of a quantity's size by which another CPU may round it otherwise, and size of what is 0.
TOLERANCE, ZERO = 5e-3, 1e-6

#: What is frozen beside the scenes of stages.
IMPORT, RUN, BASIS = "import", "run", "simulated basis"
FROZEN = (*SCENES, *FITS, IMPORT, RUN, BASIS)


@dataclass(frozen=True)
class Numbers:
    """What is known of the numbers of one revision.

    ``sizes`` are, by quantity, how many are finite, their root mean square, and a mean with fixed
    weights, which changes if two swap places (not of states: vectors may turn round).
    """

    revision: str
    sizes: dict[str, list[float]]

    def differing(self, other: Numbers) -> list[str]:
        """Quantities that are not the same in both, but for rounding."""
        names = {**self.sizes, **other.sizes}
        return [n for n in names if not _same(self.sizes.get(n), other.sizes.get(n))]


def now(name: str) -> Numbers:
    """The numbers of today."""
    if name == IMPORT:
        return _imported()
    if name == RUN:
        return _run()
    if name == BASIS:
        size = _size(small_basis().fids)
        return Numbers(f"mrsi_engine.spectra.simulation.REVISION {simulation.REVISION}", {"": size})
    case = case_of(name)
    states = states_of(case)
    found = {f"state {key}": _size(values.numpy())[:2] for key, values in states.items()}
    found |= {key: _size(values.numpy()) for key, values in tensors_of(applied(case, states))}
    kind = type(case.stage)
    return Numbers(f"{kind.__name__}.revision {revision_of(kind)}", found)


def then(name: str) -> Numbers | None:
    """The frozen numbers; ``None`` where none are."""
    found = json.loads(FILE.read_text()).get(name)
    return None if found is None else Numbers(found["revision"], found["sizes"])


def _imported() -> Numbers:
    with tempfile.TemporaryDirectory() as folder:
        scan, mask = _simulated(Path(folder))
        store = import_scan(scan, Path(folder) / "scan.zarr", mask=mask)
        sizes = {
            "fid": _size(store.read_fids(0, store.voxels)),
            "voxel": _size(store.coordinates()),
        }
    return Numbers(f"mrsi_engine.io.importing.REVISION {importing.REVISION}", sizes)


def _run() -> Numbers:
    """A whole run: what stages share beside their own doing."""
    with tempfile.TemporaryDirectory() as folder:
        scan, mask = _simulated(Path(folder))
        store = import_scan(scan, Path(folder) / "scan.zarr", mask=mask)
        basis = load_basis(BasisChoice("press-3t-te30"), store.acquisition)
        stages = [{"stage": "quantify", "window_ppm": [0.5, 4.0], "max_iterations": 2}]
        pipeline = Pipeline.from_settings({"name": "frozen", "stages": stages})
        results = Path(folder) / "result.zarr"
        run(plan(store.path, pipeline, basis, results), workers=0)
        result = open_result(results)
        sizes = {name: _size(result[name].values) for name in ("estimate", "sd", "flags")}
    return Numbers(f"mrsi_engine.engine.identity.REVISION {identity.REVISION}", sizes)


def _simulated(folder: Path) -> tuple[Path, Path]:
    simulate_scan(folder, PhantomSettings(shape=(6, 6, 1), seed=1, snr=40.0, nuisance="none"))
    return folder / "scan.nii.gz", folder / "mask.nii.gz"


def _size(values: np.ndarray) -> list[float]:
    flat = np.ascontiguousarray(np.atleast_1d(values))
    flat = flat.view(flat.real.dtype) if np.iscomplexobj(flat) else flat
    flat = flat.astype(float).ravel()
    finite = np.isfinite(flat)
    known = np.where(finite, flat, 0.0)
    weights = np.random.default_rng(0).standard_normal(len(flat))
    count = max(len(flat), 1)
    root, mean = np.sqrt(known @ known / count), weights @ known / count
    return [int(finite.sum()), float(f"{root:.6g}"), float(f"{mean:.6g}")]


def _same(now: list[float] | None, then: list[float] | None) -> bool:
    if now is None or then is None or now[0] != then[0]:
        return False
    close = TOLERANCE * max(now[1], then[1]) + ZERO
    return all(abs(a - b) <= close for a, b in zip(now, then, strict=True))


if __name__ == "__main__":
    frozen = {name: vars(now(name)) for name in FROZEN}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(n)}" for name, n in frozen.items())
    FILE.write_text(f"{{\n{lines}\n}}\n")
