"""Pipeline steps; importing this package registers the shipped ones."""

from mrsi_engine.stages.averaging import Averaging
from mrsi_engine.stages.coil_combination import CoilCombination
from mrsi_engine.stages.denoise import Denoise
from mrsi_engine.stages.eddy_current import EddyCurrent
from mrsi_engine.stages.first_order_phase import FirstOrderPhase
from mrsi_engine.stages.fpc import FrequencyPhaseCorrection
from mrsi_engine.stages.lipid_removal import LipidRemoval
from mrsi_engine.stages.quality_control import QualityControl
from mrsi_engine.stages.quantify import Quantify
from mrsi_engine.stages.scale import Scale
from mrsi_engine.stages.scan_shift import ScanShift
from mrsi_engine.stages.water_removal import WaterRemoval

__all__ = [
    "Averaging",
    "CoilCombination",
    "Denoise",
    "EddyCurrent",
    "FirstOrderPhase",
    "FrequencyPhaseCorrection",
    "LipidRemoval",
    "QualityControl",
    "Quantify",
    "Scale",
    "ScanShift",
    "WaterRemoval",
]
