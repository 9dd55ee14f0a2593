"""Networks that learn without labels: encoders, physics decoders, training and model folders."""
