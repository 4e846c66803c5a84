"""Benchmarks: one script a claim, each beside its peers in the same run.

`python -m benchmarks --list` names them, `python -m benchmarks NAME --json FILE` runs one.
"""
