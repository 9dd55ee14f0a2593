"""What is known of each nucleus, as data: one TOML file a nucleus."""

from mrsi_engine.nuclei.nuclei import Nucleus, known_nuclei, nucleus

__all__ = ["Nucleus", "known_nuclei", "nucleus"]
