"""mrsi_engine: MR spectroscopic imaging volumes to metabolite and uncertainty maps, at scale."""

__version__ = "0.1.0"
