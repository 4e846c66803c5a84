r"""The experiments table: one index a recipe, one JSON file a row, docs/results.md made of them.

    genmm index flickr8k/dev.jsonl --output dev.genmm
    python -m benchmarks.results run --described dev.genmm --queries flickr8k/dev.jsonl \
        --work work --rows rows
    python -m benchmarks dual_encoder --flickr flickr8k --json dual.json
    python -m benchmarks.results table --rows rows --peer dual.json > docs/results.md

Pictures are described once, for the first index; the indexes of all recipes take captions and
features from it. Rows and indexes that are there are not made again.
"""
