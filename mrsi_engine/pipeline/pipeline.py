"""A pipeline: an ordered list of stages with settings, read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, field_validator

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import nucleus
from mrsi_engine.pipeline.ranges import NucleusDefaults
from mrsi_engine.pipeline.registry import stage_kind
from mrsi_engine.pipeline.settings import group_of
from mrsi_engine.pipeline.stage import Apply, Block, Context, Stage, State
from mrsi_engine.quantities import Declaration

#: The folder of ready-made pipelines inside the package.
SHIPPED = resources.files("mrsi_engine") / "pipelines"


class Pipeline(BaseModel):
    """An ordered list of stages.

    ``block_size`` is voxels a task; results do not depend on it. ``nucleus`` is the only one it is
    for; any if not given. ``bids`` says where BIDS datasets keep what comes with a scan
    (:mod:`mrsi_engine.bids.rules`); it is no setting of the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    nucleus: str | None = None
    block_size: int = 2048
    bids: dict[str, Any] = Field(default_factory=dict, exclude=True)
    stages: tuple[SerializeAsAny[Stage], ...]

    @field_validator("block_size")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value < 1:
            raise ValueError(f"block_size must be at least 1, found {value}")
        return value

    @field_validator("stages", mode="before")
    @classmethod
    def _chosen_by_name(cls, tables: Any) -> tuple[Stage, ...]:
        if not isinstance(tables, list | tuple) or not tables:
            raise ValueError("a pipeline needs at least one [[stages]] table")
        return tuple(table if isinstance(table, Stage) else _stage(table) for table in tables)

    def contexts(self, context: Context) -> list[Context]:
        """What each stage may know: ``context`` with what the stages before leave and write."""
        return list(self._contexts(context))

    def _contexts(self, context: Context) -> Iterator[Context]:
        # One by one, so that a stage can be checked before it is asked what it writes.
        for stage in self.stages:
            yield context
            context = replace(
                context,
                dimensions=stage.leaves(context.dimensions),
                written=(*context.written, *_declared(stage, context).parameters),
            )

    def assumptions(self, context: Context) -> dict[str, Any]:
        """What the numbers rest on and the data do not say, by stage."""
        pairs = zip(self.stages, self._contexts(context), strict=True)
        found = {stage.stage: dict(stage.assumptions(known)) for stage, known in pairs}
        return {name: assumed for name, assumed in found.items() if assumed}

    def models(self, context: Context) -> dict[str, dict[str, str]]:
        """Checksums of the trained models that stages take, by stage and name."""
        pairs = zip(self.stages, self._contexts(context), strict=True)
        found = {stage.stage: dict(stage.models(known)) for stage, known in pairs}
        return {name: models for name, models in found.items() if models}

    def declare(self, context: Context) -> Declaration:
        """What all stages write, in order."""
        pairs = zip(self.stages, self.contexts(context), strict=True)
        return sum((_declared(stage, known) for stage, known in pairs), Declaration())

    def check(self, context: Context) -> Pipeline:
        """This pipeline, once it is known to be for the nucleus and every stage to fit the scan."""
        self.check_nucleus(context.acquisition)
        for stage, known in zip(self.stages, self._contexts(context), strict=True):
            stage.check(known)
        return self

    def applied(self, context: Context) -> list[dict[str, Any]]:
        """Plain settings of the stages that are not passed over in this scan, in order."""
        pairs = zip(self.stages, self._contexts(context), strict=True)
        return [_table(stage) for stage, known in pairs if not stage.skipped(known)]

    def check_nucleus(self, acquisition: Acquisition) -> None:
        """See that the pipeline is for the nucleus of a scan.

        Raises
        ------
        InputError
            If it is for another, or the nucleus is not known.
        """
        scan = nucleus(acquisition.nucleus)
        if self.nucleus in (None, scan.symbol):
            return
        other = f"--pipeline {scan.pipeline}" if scan.pipeline else "--pipeline minimal"
        raise InputError(
            f"pipeline {self.name}: is for {self.nucleus}, the scan is of {scan.symbol}; give "
            f"{other}, or a pipeline of your own"
        )

    def resolved(self, acquisition: Acquisition) -> Pipeline:
        """This pipeline with all settings stated that are the nucleus' own unless given."""
        stages = tuple(
            stage.resolved(acquisition) if isinstance(stage, NucleusDefaults) else stage
            for stage in self.stages
        )
        return self.model_copy(update={"stages": stages})

    def processing_methods(self) -> dict[str, str]:
        """What NIfTI-MRS calls the step of each stage."""
        return {s.stage: s.processing_method or s.stage for s in self.stages}

    @property
    def modules(self) -> list[str]:
        """Where its stages are defined: what another process has to import first."""
        return sorted({type(stage).__module__ for stage in self.stages})

    def settings(self) -> dict[str, Any]:
        """Plain settings that :meth:`from_settings` reads back; also what a run is known by."""
        tables = [_table(stage) for stage in self.stages]
        return {**self.model_dump(mode="json", exclude={"stages"}), "stages": tables}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], source: str = "pipeline") -> Pipeline:
        """A pipeline from plain settings.

        Raises
        ------
        InputError
            If a key is unknown or a value out of range: names the key and what is allowed.
        """
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as error:
            raise InputError(f"{source}: {_explained(error, cls)}") from error

    @classmethod
    def load(cls, name_or_file: str | Path) -> Pipeline:
        """A shipped pipeline by name, or any by file.

        Raises
        ------
        InputError
            If there is no such pipeline, the file is not TOML or its settings are wrong.
        """
        source = str(name_or_file)
        try:
            return cls.from_settings(tomllib.loads(_text(source)), source)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InputError(f"{source}: not valid TOML: {error}") from error


def shipped_pipelines() -> list[str]:
    """Names that ``--pipeline NAME`` finds."""
    return sorted(
        f.name.removesuffix(".toml") for f in SHIPPED.iterdir() if f.name.endswith(".toml")
    )


def pipeline_text(name_or_file: str) -> str:
    """The TOML text of a pipeline, as ``mrsi pipeline show`` prints it."""
    return _text(name_or_file)


@dataclass(frozen=True, eq=False)
class PreparedStage:
    """A stage bound to one scan.

    ``context`` is what it knew, with what its passes found; ``apply`` what it was built into, for
    blocks that hold a voxel.
    """

    stage: Stage
    context: Context
    apply: Apply

    def __call__(self, block: Block) -> None:
        """Do a block; one of no voxel gets what the stage declares without asking it."""
        if len(block.fids):
            self.apply(block)
        else:
            _write_nothing(block, self.stage, self.context)


@dataclass(frozen=True, eq=False)
class PreparedPipeline:
    """A pipeline bound to one scan, as far as it was prepared."""

    pipeline: Pipeline
    stages: tuple[PreparedStage, ...]

    def __call__(self, block: Block) -> Block:
        """The block once every stage has done it."""
        for stage in self.stages:
            stage(block)
        return block


def prepare_stage(stage: Stage, context: Context) -> PreparedStage:
    """A stage bound to one scan: its tables are made here."""
    return PreparedStage(stage, context, stage.build(context))


def prepare_pipeline(
    pipeline: Pipeline,
    context: Context,
    states: Sequence[State] = (),
    prepare: Callable[[Stage, Context], PreparedStage] = prepare_stage,
) -> PreparedPipeline:
    """The pipeline bound to one scan: tables are made here, once per worker.

    ``states`` are what the passes over the scan found, one for each stage; the pipeline goes as
    far as there are states, so that a stage's own passes see what the stages before leave.
    ``prepare`` makes the tables of a stage, or knows them.
    """
    contexts = pipeline.contexts(context)
    if not any(stage.passes(c) for stage, c in zip(pipeline.stages, contexts, strict=True)):
        states = states or [{}] * len(pipeline.stages)
    return PreparedPipeline(
        pipeline,
        tuple(
            prepare(stage, replace(before, state=state))
            for stage, before, state in zip(pipeline.stages, contexts, states, strict=False)
        ),
    )


def _table(stage: Stage) -> dict[str, Any]:
    return {"stage": stage.stage, **stage.model_dump(mode="json")}


def _write_nothing(block: Block, stage: Stage, context: Context) -> None:
    fids, declared = block.fids, stage.declare(context)
    left = [1 + context.dimensions.index(name) for name in stage.leaves(context.dimensions)]
    block.fids = fids.new_empty((0, *(fids.shape[place] for place in left), fids.shape[-1]))
    nothing = fids.new_empty(0, dtype=torch.float64)
    for quantity in declared.parameters:
        block.estimate[quantity.name] = block.sd[quantity.name] = nothing
    for quantity in declared.measures:
        block.measures[quantity.name] = nothing
    for quantity in declared.signals if block.keep_signals else ():
        block.signals[quantity.name] = fids.new_empty((0, fids.shape[-1]))


def _declared(stage: Stage, context: Context) -> Declaration:
    return stage.declare(context).of_stage(stage.stage)


def _text(name_or_file: str) -> str:
    shipped = SHIPPED / f"{name_or_file}.toml"
    if shipped.is_file():
        return shipped.read_text(encoding="utf-8")
    path = Path(name_or_file)
    if path.is_file():
        try:
            # Editors of Windows put a mark before the text, which is no TOML.
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: not a TOML file, which is text in UTF-8 ({error})"
            ) from error
    raise InputError(
        f"{name_or_file}: no such pipeline; shipped are {', '.join(shipped_pipelines())}, or give "
        "a TOML file"
    )


def _stage(table: Any) -> Stage:
    if not isinstance(table, Mapping) or "stage" not in table:
        raise ValueError('every [[stages]] table needs a key stage = "..."')
    settings = dict(table)
    key = settings.pop("stage")
    try:
        kind = stage_kind(str(key))
    except InputError as error:
        raise ValueError(str(error)) from error
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise ValueError(f"stage {key!r}: {_explained(error, kind)}") from error


def _explained(error: ValidationError, model: type[BaseModel]) -> str:
    return "; ".join(_explained_one(e, model) for e in error.errors())


def _explained_one(error: Any, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        allowed = sorted(_table_of(model, error["loc"]).model_fields)
        return f"unknown key {key!r}; allowed are {', '.join(allowed)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{key}: {message}" if error["type"] != "value_error" else message


def _table_of(model: type[BaseModel], place: Sequence[Any]) -> type[BaseModel]:
    """The model of the table that a key of this place stands in."""
    for name in place[:-1]:
        field = model.model_fields.get(name)
        group = None if field is None else group_of(field.annotation)
        if group is None:
            return model
        model = group
    return model
