"""The edge: scans, bases and companions as files, stores, maps and tables."""
