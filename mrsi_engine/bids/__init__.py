"""BIDS datasets: which scans they hold, and how results are laid out as one."""
