"""What the stage ``quantify`` is made of: the model, its settings, search and error bars."""
