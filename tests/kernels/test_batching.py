import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrsi_engine.kernels.batching import batch_size, in_batches

GPU = torch.device("cuda")
MEBI = 1 << 20


@pytest.fixture
def memory(monkeypatch):
    """Says what a GPU has free, and what torch has reserved and given out of the rest."""

    def has(free, reserved=0, allocated=0):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 1024 * MEBI))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)

    return has


def test_on_the_cpu_the_cache_decides():
    assert batch_size(torch.device("cpu"), 1.0, on_cpu=256) == 256


@pytest.mark.parametrize(
    ("free", "bytes_a_voxel", "expected"),
    [
        (10_240 * MEBI, MEBI, 4096),  # 0.4 of it are 4096 voxels exactly
        (10_239 * MEBI, MEBI, 2048),
        (100 * MEBI, MEBI, 256),  # never less than on the CPU
        (80_000 * MEBI, 0.1 * MEBI, 65_536),  # nor more than a GPU needs
        (0, MEBI, 256),
    ],
)
def test_on_a_gpu_its_free_memory_decides(memory, free, bytes_a_voxel, expected):
    memory(free)
    assert batch_size(GPU, bytes_a_voxel, on_cpu=256) == expected


def test_what_torch_keeps_for_itself_is_free(memory):
    memory(1000 * MEBI, reserved=12_000 * MEBI, allocated=2760 * MEBI)
    assert batch_size(GPU, MEBI, on_cpu=256) == 4096


@given(voxels=st.integers(0, 50), size=st.integers(1, 60), room=st.integers(1, 60))
def test_every_voxel_is_done_once_in_order_whatever_memory_there_is(voxels, size, room):
    tried = []

    def work(rows):
        tried.append(rows.stop - rows.start)
        if rows.stop - rows.start > room:
            raise torch.cuda.OutOfMemoryError
        return list(range(rows.start, rows.stop))

    parts = in_batches(work, voxels, size)
    assert [voxel for part in parts for voxel in part] == list(range(voxels))
    assert all(len(part) <= min(size, room) for part in parts)
    assert parts
    # What was too much once is not tried again.
    assert sum(count > room for count in tried) <= 6


def test_a_voxel_that_does_not_fit_alone_is_told():
    def work(rows):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        in_batches(work, 3, 2)


def test_other_errors_are_not_tried_again():
    with pytest.raises(ZeroDivisionError):
        in_batches(lambda rows: 1 // 0, 3, 2)
