"""Training: what `genmm train` runs."""
