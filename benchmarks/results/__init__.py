"""The experiments table: one index a recipe, one JSON file a row, docs/results.md made of them."""
