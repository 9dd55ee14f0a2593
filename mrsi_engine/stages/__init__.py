"""Pipeline steps; importing this package registers the shipped ones."""

from mrsi_engine.stages.quantify import Quantify
from mrsi_engine.stages.water_removal import WaterRemoval

__all__ = ["Quantify", "WaterRemoval"]
