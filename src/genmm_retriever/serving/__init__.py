"""Doors to an index: the command line `genmm` and its demonstration."""
