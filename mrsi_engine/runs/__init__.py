"""Ways to run the engine, one file each."""
