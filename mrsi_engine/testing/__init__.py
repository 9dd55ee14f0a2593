"""What others can test their own parts of the engine with; needs pytest."""

from mrsi_engine.testing.pretend_device import pretend_device
from mrsi_engine.testing.stages import StageCase, StageTests

__all__ = ["StageCase", "StageTests", "pretend_device"]
