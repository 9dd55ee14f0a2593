"""What spectra are made of: bases and how they are simulated, lines, relaxation, phantoms."""
