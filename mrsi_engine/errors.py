"""The ways a run can end badly. All also derive from the builtin a caller would expect."""

from __future__ import annotations

#: What the command line returns for a run that went well and whose results nobody should use.
UNUSABLE = 3


class MRSIError(Exception):
    """Base of every error this package raises on purpose. ``exit_code`` is what the CLI returns."""

    exit_code = 1


class InputError(MRSIError, ValueError):
    """Something the user gave is wrong: names the file, the field, what was found, what to do."""

    exit_code = 2


class RunError(MRSIError, RuntimeError):
    """A run that began failed (a full disk, workers that died); what was done is kept."""

    exit_code = 1


class Interrupted(RunError):
    """A run was asked to stop (end of a job's wall time, Ctrl-C); the same command goes on."""


class DamagedError(InputError):
    """Files of a store are not as they were written: names each and what to do."""
