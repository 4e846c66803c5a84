"""What the benchmarks run on: identifiers and text, made on the spot and kept outside the tree."""
