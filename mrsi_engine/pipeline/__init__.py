"""The frame of a pipeline: what a stage is, what it may know, and the order they go in."""
