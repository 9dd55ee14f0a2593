"""Files of a finished run that are lost, cut short or altered: done again, or refused by name."""

import os
import random
import shutil

import numpy as np
import pytest
from conftest import write_scan
from scripted import Moments
from test_blocks import assert_same, maps
from whole_scan import Template

from mrsi_engine.conventions import Status
from mrsi_engine.engine.blocks import run_block
from mrsi_engine.engine.driver import run
from mrsi_engine.engine.events import BlockDone, DamageFound, PassFinished
from mrsi_engine.engine.passes import finish_pass, next_pass, run_part
from mrsi_engine.engine.plan import plan
from mrsi_engine.errors import DamagedError, MRSIError
from mrsi_engine.io.result_store import ResultStore, open_result
from mrsi_engine.io.summaries import Summaries
from mrsi_engine.pipeline.pipeline import Pipeline

STAGES = Pipeline(name="damage", stages=(Template(), Moments()))


def planned(folder, **options):
    """The same plan every time."""
    return plan(
        folder / "scan.zarr",
        STAGES,
        None,
        folder / "result.zarr",
        block_size=16,
        keep=["corrected"],
        **options,
    )


def process(folder, sinks=(), **options):
    """The same command every time: the maps of the scan in a folder."""
    damages = []
    todo = planned(folder, on_damage=lambda _, found: damages.extend(map(str, found)), **options)
    run(todo, workers=0, sinks=[*sinks, lambda event: damages.extend(files_of(event))])
    todo.store.check()
    return maps(folder / "result.zarr"), damages


def files_of(event):
    return event.files if isinstance(event, DamageFound) else ()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    write_scan(folder / "scan.zarr", bad={3: np.nan, 17: 0}, water=True)
    return folder, process(folder)[0]


@pytest.fixture
def copied(finished, tmp_path):
    folder, expected = finished
    shutil.copytree(folder, tmp_path / "run")
    return tmp_path / "run", expected


def cut_in_half(file):
    os.truncate(file, file.stat().st_size // 2)


def test_same_command_does_damaged_blocks_again_and_no_others(copied):
    folder, expected = copied
    result = folder / "result.zarr"
    cut_in_half(result / "estimate" / "c" / "2" / "0")
    (result / "corrected" / "c" / "5" / "0").unlink()
    (result / "status" / "c" / "6").unlink()
    with pytest.raises(DamagedError, match=r"estimate/c/2/0 is cut short .*block 2, voxels 32 to"):
        open_result(result)
    seen = []
    found, damages = process(folder, [seen.append])
    assert_same(found, expected)
    assert damages == [
        "estimate/c/2/0 is cut short or altered (block 2, voxels 32 to 47)",
        "corrected/c/5/0 is missing (block 5, voxels 80 to 95)",
        "status/c/6 is missing (block 6, voxels 96 to 99)",
    ]
    assert [event.receipt.block for event in seen if isinstance(event, BlockDone)] == [2, 5, 6]
    assert process(folder)[1] == []


def test_same_command_does_a_damaged_pass_again(copied):
    folder, expected = copied
    cut_in_half(folder / "result.zarr" / "state" / "0" / "1" / "scatter" / "c")
    seen = []
    found, damages = process(folder, [seen.append])
    assert_same(found, expected)
    (damage,) = damages
    assert damage.startswith("state/0/1/scatter/c is cut short or altered (pass 2 of stage 1")
    assert [event.step for event in seen if isinstance(event, PassFinished)] == [2]
    assert not any(isinstance(event, BlockDone) for event in seen)


def test_parts_of_a_pass_that_are_damaged_are_done_again(tmp_path, finished):
    folder, expected = finished
    shutil.copytree(folder / "scan.zarr", tmp_path / "scan.zarr")
    todo = plan(tmp_path / "scan.zarr", STAGES, None, tmp_path / "result.zarr", block_size=16)
    first = next_pass(todo)
    for part in first.missing():
        run_part(first, part)
    summaries = Summaries.of(todo.store, 0, 0)
    cut_in_half(summaries.folder / "2.npz")
    assert first.missing() == [2]
    with pytest.raises(DamagedError, match=r"2\.npz: is cut short .* does this part again"):
        finish_pass(first)
    shutil.rmtree(tmp_path / "result.zarr" / "state")
    (tmp_path / "result.zarr" / "state").mkdir()
    found, _ = process_without_signals(tmp_path)
    assert_same(found, {name: expected[name] for name in found})


def process_without_signals(folder):
    todo = plan(folder / "scan.zarr", STAGES, None, folder / "result.zarr", block_size=16)
    run(todo, workers=0)
    return maps(folder / "result.zarr"), todo


def test_damaged_scan_is_named_with_the_block_that_read_it(copied):
    folder, _ = copied
    shutil.rmtree(folder / "result.zarr")
    cut_in_half(folder / "scan.zarr" / "fid" / "c" / "4" / "0")
    with pytest.raises(
        MRSIError, match=r"fid/c/4/0 is cut short .*voxels 64 to 79.* `mrsi import`"
    ):
        process(folder)
    (folder / "scan.zarr" / "water" / "c" / "1" / "0").unlink()
    with pytest.raises(DamagedError, match=r"water/c/1/0 is missing \(voxels 16 to 31\)"):
        process(folder)


def test_run_killed_between_mending_and_its_end_is_still_reviewed(copied, monkeypatch):
    folder, expected = copied

    def review(self, found):
        return (found["status"] == Status.LEAST_SQUARES).int() * 32

    monkeypatch.setattr(Moments, "review", review)
    (folder / "result.zarr" / "flags" / "c" / "0").unlink()
    todo = planned(folder)
    todo.store.forget_damaged()
    run_block(todo, 0)
    found, _ = process(folder)
    assert (found["flags"][expected["status"] == Status.LEAST_SQUARES] == 32).all()


def spoil(folder, rng):
    """Lose, cut or alter one file of a run, whichever; says what."""
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    file = rng.choice(files)
    way = rng.choice(["lost", "cut", "flipped"])
    if way == "lost":
        file.unlink()
    elif way == "cut":
        os.truncate(file, rng.randrange(file.stat().st_size))
    else:
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    return f"{file.relative_to(folder)} {way}"


@pytest.mark.parametrize("seed", range(5))
def test_ten_accidents_change_no_number_without_a_word(seed, finished, tmp_path):
    folder, expected = finished
    rng = random.Random(seed)
    for number in range(10):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        accident = spoil(copy, rng)
        for attempt in (exported, lambda copy: process(copy)[0]):
            try:
                found = attempt(copy)
            except MRSIError as error:
                refused = str(error)
                assert str(copy) in refused, f"{accident}: {refused}"
            else:
                assert_same(found, expected)


def exported(folder):
    """What an export reads, which looks at everything before."""
    ResultStore.open(folder / "result.zarr").check()
    return maps(folder / "result.zarr")
