"""What the stage ``fpc`` is made of: its settings and its ways to find shifts and phases."""
