"""Batched torch functions over ``(voxel, time)`` that know neither files nor Dask."""
