"""What a run is: where its input came from, and everything its maps depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrsi_engine.io.result_schema import SCHEMA_VERSION
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.registry import revision_of
from mrsi_engine.spectra.basis import Basis

#: Raised whenever what all stages share changes numbers: which voxels reach them, how a basis is
#: brought onto an axis, how results are packed. That of imports is in the scan store.
REVISION = 1

_OF_THE_SCAN = (
    "shape",
    "affine",
    "position_code",
    "stem",
    "source",
    "checksum",
    "header",
    "mask_origin",
)


def provenance(scan: Mapping[str, Any], pipeline: Pipeline, basis: Basis | None) -> dict[str, Any]:
    """Attributes of a result that say where it came from; ``scan`` is a scan's own attributes."""
    return {
        **{name: scan[name] for name in _OF_THE_SCAN},
        "notes": [*scan["notes"], *(() if basis is None else basis.notes)],
        "pipeline": pipeline.settings(),
        "processing_methods": pipeline.processing_methods(),
        "basis": _basis_provenance(basis),
    }


def _basis_provenance(basis: Basis | None) -> dict[str, Any] | None:
    if basis is None:
        return None
    return {
        "source": Path(basis.source).name if Path(basis.source).is_absolute() else basis.source,
        "fingerprint": basis.fingerprint,
        "names": list(basis.names),
        "sequence": basis.sequence,
        "echo_time": basis.acquisition.echo_time,
    }


def identity_of(
    scan: ScanStore,
    pipeline: Pipeline,
    basis: Basis | None,
    models: Mapping[str, Mapping[str, str]],
    signals: Sequence[str],
    block_size: int,
) -> dict[str, Any]:
    """Everything the maps depend on, by the words a message uses.

    The version of the engine is none of it: revisions say whether one changed numbers.
    """
    return {
        "schema version": SCHEMA_VERSION,
        "engine revision": REVISION,
        "scan": {
            "source checksum": scan.checksum,
            "voxels": scan.voxels,
            "mask": hashlib.sha256(scan.coordinates().tobytes()).hexdigest(),
            "acquisition": dataclasses.asdict(scan.acquisition),
            "companions": list(scan.companions),
            # How the store is cut changes nothing that is read from it.
            "input": {name: value for name, value in scan.inputs.items() if name != "chunk"},
        },
        "pipeline": stages_of(pipeline),
        "basis": None if basis is None else basis.fingerprint,
        "models": models,
        "kept signals": list(signals),
        "block size": block_size,
    }


def stages_of(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Settings and revision of each stage, in order."""
    tables = pipeline.settings()["stages"]
    revisions = [revision_of(type(stage)) for stage in pipeline.stages]
    pairs = zip(tables, revisions, strict=True)
    return [{**table, "revision": revision} for table, revision in pairs]


def changes(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Where two identities differ, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from changes(before.get(key), now.get(key), f"{name} {key}".strip())
    elif _are_stages(before) and _are_stages(now) and _names(before) == _names(now):
        for old, new in zip(before, now, strict=True):
            yield from changes(old, new, f"{name} stage {new['stage']}:")
    elif _are_stages(before) and _are_stages(now):
        yield f"{name} stages {_names(before)} -> {_names(now)}"
    elif before != now:
        yield f"{name} {_short(before)} -> {_short(now)}"


def _are_stages(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) and "stage" in v for v in value)


def _names(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    return [stage["stage"] for stage in stages]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:12]}...{text[-4:]}"


def sha256(value: Any) -> str:
    """SHA-256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
